"""What all tests share."""

import logging
from pathlib import Path

import mindspore as ms
import pytest

from src.ops import select
from src.ops.cpu.library import KernelLibrary, load_library

# They start whole programs and take minutes: first, so that no worker is left alone with one at the end.
LONGEST = ("test_end_to_end.py", "test_distributed.py", "test_pipeline.py", "test_data_parallel.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = Path(item.path).name
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)  # stable: the others stay in their order


@pytest.fixture(scope="session", autouse=True)
def cpu_is_set_before_any_kernel_runs() -> None:
    """MindSpore refuses to be told its device after the first kernel, whichever test comes first."""
    ms.set_device("CPU")


@pytest.fixture(scope="module", autouse=True)
def modules_start_anew() -> None:
    """In MindSpore's default mode and on its operators, whatever the fixtures of the module before left."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    select._library, select._decided, select._options = None, False, select.UnitOptions()


@pytest.fixture(autouse=True)
def kernels_are_chosen_by_each_test(monkeypatch) -> None:
    """Tests start on MindSpore's operators, whatever an earlier one has loaded; the choice is global."""
    monkeypatch.setattr(select, "_library", None)
    monkeypatch.setattr(select, "_decided", False)
    monkeypatch.setattr(select, "_options", select.UnitOptions())


@pytest.fixture(autouse=True)
def restored_logging():
    """Give pytest its log handlers back after a script has set up its own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def library() -> KernelLibrary:
    library = load_library(2)
    if not library.has_blocked:
        pytest.skip("this processor has neither AVX2 nor AVX-512")
    return library


@pytest.fixture
def kernels_in_use(library, monkeypatch) -> KernelLibrary:
    """Let cells that a test makes use the CPU kernels."""
    monkeypatch.setattr(select, "_library", library)
    monkeypatch.setattr(select, "_decided", True)
    return library
