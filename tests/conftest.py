"""What all tests share."""

import mindspore as ms
import pytest


@pytest.fixture(scope="session", autouse=True)
def cpu_is_set_before_any_kernel_runs() -> None:
    """MindSpore refuses to be told its device after the first kernel, whichever test comes first."""
    ms.set_device("CPU")
