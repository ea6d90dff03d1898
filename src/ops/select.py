"""Which kernels serve this process: the project's own on CPU where they can be built, else MindSpore's operators.

The back end decides once, on CPU only; cells ask `kernels()` when they are made.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from src.errors import UserError
from src.ops.cpu.library import KernelLibrary, load_library
from src.ops.cpu.toolchain import KernelBuildError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UnitOptions:
    """How units compute.

    Attributes:
        storage: type of activations between the CPU kernels' units, `float32` or `bfloat16`; sums and parameters are
            fp32.
        algorithm: of their 5³ convolutions: `winograd`, `direct`, or `auto` for the faster one by layer and direction.
        norm_ranks: number of ranks over whose batches batch norm takes its statistics together. Above 1 a unit with
            batch norm takes cells of its own in place of the fused kernel, on every back end.
        norm: `batch`, or `instance` for statistics of each sample by itself.
    """

    storage: str = "float32"
    algorithm: str = "auto"
    norm_ranks: int = 1
    norm: str = "batch"


SLOWDOWN = "10 to 50 times"

_library: KernelLibrary | None = None
_options = UnitOptions()
_decided = False
_stock = 0


def use_cpu_kernels(threads: int | None = None) -> bool:
    """Build (once a machine) and load the CPU kernels; from then on new cells use them.

    Where that fails, one warning says why, and cells use MindSpore's operators. Later calls only set the threads.

    Args:
        threads: of a kernel; None for all cores that this process may use.

    Returns:
        Whether the kernels are in use.
    """
    global _library, _decided
    if not _decided:
        _decided = True
        try:
            _library = load_library(threads)
        except KernelBuildError as error:
            logger.warning("no CPU kernels, MindSpore's own operators are used and training will be %s slower: %s",
                           SLOWDOWN, error)
            return False
        if not _library.has_onednn:
            logger.warning("CPU kernels without oneDNN: %s; convolutions that have no kernel of ours will be %s slower",
                           _library.onednn_problem, SLOWDOWN)
    elif _library is not None and threads is not None:
        _library.set_threads(threads)
    return _library is not None


def set_unit_options(options: UnitOptions) -> None:
    """Set how units that are made from now on compute.

    Raises:
        UserError: `direct` is asked for, but the kernels in use have no oneDNN, whose kernels these are.
    """
    global _options
    library = kernels()
    if options.algorithm == "direct" and library is not None and not library.has_onednn:
        raise UserError(f"conv_algorithm: found 'direct', which takes oneDNN's kernels; {library.onednn_problem}; make "
                        "oneDNN available, or choose --set conv_algorithm=auto (for training: in a new run)")
    _options = options


def unit_options() -> UnitOptions:
    """Return how a unit made now should compute."""
    return _options


def kernels() -> KernelLibrary | None:
    """Return the kernels that a cell made now should use; None for MindSpore's operators."""
    return None if _stock else _library


@contextlib.contextmanager
def stock_kernels() -> Iterator[None]:
    """Cells that are made within use MindSpore's operators: for export, and for comparisons."""
    global _stock
    _stock += 1
    try:
        yield
    finally:
        _stock -= 1
