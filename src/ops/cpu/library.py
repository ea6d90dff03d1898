"""Loads the compiled CPU kernels and calls them with NumPy arrays."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.ops.cpu.build import build, discard, read_metadata
from src.ops.cpu.toolchain import ISAS, KernelBuildError, missing_flags

_ENTRY_ARGUMENTS = (ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int),
                    ctypes.POINTER(ctypes.POINTER(ctypes.c_int64)), ctypes.POINTER(ctypes.c_char_p), ctypes.c_void_p,
                    ctypes.c_void_p)
_FAILED = 1  # as in entry.h: the library has the words


class KernelLibrary:
    """A loaded library of CPU kernels.

    Attributes:
        path: of the shared library, as MindSpore's custom operators want it.
        isa: the instruction set it was built for: avx512, avx2 or baseline.
        has_blocked: whether it has the kernels on blocked volumes.
        has_onednn: whether oneDNN, and with it the generic convolutions, can be used.
        onednn_problem: why not; empty if it can.

    Raises:
        KernelBuildError: the processor cannot run it.
        OSError: the file is not a library that can be loaded.
    """

    def __init__(self, path: Path):
        isa = ISAS[read_metadata(path)["isa"]]
        if lacking := missing_flags(isa):
            raise KernelBuildError(f"{path} was built for {isa.name}, this processor has no {', '.join(lacking)}; "
                                   "remove that folder and start again")
        self.path = path
        self.isa = isa.name
        self.has_blocked = isa.blocked
        self._library = ctypes.CDLL(str(path))
        self._library.VnetScratchBytes.restype = ctypes.c_int64
        self._library.VnetIsa.restype = self._library.VnetLastError.restype = ctypes.c_char_p
        if (found := self._library.VnetIsa().decode()) != isa.name:
            raise KernelBuildError(f"{path} says it is for {found}, expected {isa.name}; remove that folder")
        state = self._library.VnetHasOneDnn()
        self.has_onednn = state == 1
        self.onednn_problem = {1: "", 0: "none was found to build them with (pip install -r requirements.txt)"}.get(
            state, "another library of its name, built for other threads, came first (MindSpore's own)")
        if self.has_onednn:
            self._library.VnetLimitOneDnn()

    @property
    def threads(self) -> int:
        """Number of threads that a kernel uses."""
        return self._library.VnetThreads()

    def set_threads(self, count: int) -> None:
        """Set how many threads a kernel uses; only while none runs."""
        self._library.VnetSetThreads(ctypes.c_int(count))

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory that the kernels keep."""
        return self._library.VnetScratchBytes()

    def has(self, name: str) -> bool:
        """Return whether there is an entry of that name."""
        return hasattr(self._library, name)

    def shared_bytes(self, ranks: int) -> int:
        """Return the size of the file that so many ranks share."""
        self._library.VnetSharedBytes.restype = ctypes.c_int64
        return self._library.VnetSharedBytes(ctypes.c_int(ranks))

    def share_memory(self, path: str, rank: int, ranks: int) -> None:
        """Let `MeanOverRanks` use the file at `path`, of `shared_bytes` zeros; each rank calls this once.

        Raises:
            OSError: it cannot be mapped into memory.
        """
        if code := self._library.VnetShare(str(path).encode(), ctypes.c_int(rank), ctypes.c_int(ranks)):
            raise OSError(code, os.strerror(code), path)

    def rank_seconds(self) -> tuple[float, float]:
        """Return the seconds spent in `MeanOverRanks` since the last call, and the part of them that was waiting."""
        seconds = (ctypes.c_double * 2)()
        self._library.VnetRankSeconds(seconds)
        return seconds[0], seconds[1]

    def call(self, name: str, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        """Call an entry as MindSpore would.

        Args:
            name: of the entry.
            inputs: arrays of any type; uint16 stands for bfloat16, see `to_bf16`.
            outputs: arrays that are written in place.

        Raises:
            ValueError: an output is not contiguous.
            RuntimeError: the entry reports an error, in its words.
        """
        if not all(output.flags.c_contiguous for output in outputs):
            raise ValueError(f"{name}: outputs have to be contiguous arrays")
        arrays = [*(np.asarray(array, order="C") for array in inputs), *outputs]
        count = len(arrays)
        shapes = [(ctypes.c_int64 * max(array.ndim, 1))(*array.shape) for array in arrays]
        types = ["bfloat16" if array.dtype == np.uint16 else array.dtype.name for array in arrays]
        entry = getattr(self._library, name)
        entry.argtypes = _ENTRY_ARGUMENTS
        code = entry(count, (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays)),
                     (ctypes.c_int * count)(*(array.ndim for array in arrays)),
                     (ctypes.POINTER(ctypes.c_int64) * count)(
                         *(ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)) for shape in shapes)),
                     (ctypes.c_char_p * count)(*(name.encode() for name in types)), None, None)
        if code == _FAILED:
            raise RuntimeError(self._library.VnetLastError().decode(errors="replace"))
        if code != 0:
            raise RuntimeError(f"CPU kernel {name} failed with code {code}")


def load_library(threads: int | None = None) -> KernelLibrary:
    """Return the library for this machine, built first if need be, with `threads` threads (None: all cores).

    Raises:
        KernelBuildError: it cannot be built or loaded here.
    """
    path = build()
    try:
        library = KernelLibrary(path)
    except OSError:
        # Built by an earlier run and of no use now: built once more.
        discard(path)
        path = build()
        try:
            library = KernelLibrary(path)
        except OSError as error:
            raise KernelBuildError(f"the CPU kernels were built but do not load ({error}); check that programs may be "
                                   f"run from {path.parent}, or set VNET_KERNEL_CACHE to another folder") from error
    library.set_threads(threads if threads is not None else len(os.sched_getaffinity(0)))
    return library


def to_bf16(array: np.ndarray) -> np.ndarray:
    """Return fp32 values as bfloat16 bits (uint16), rounded to nearest even; for values that are not NaN."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 bits (uint16) as fp32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
