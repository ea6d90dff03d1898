"""The kernel library for the tests of this folder, built once a machine."""

import pytest

from src.ops import select
from src.ops.cpu.library import KernelLibrary, load_library


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
