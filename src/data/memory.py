"""How much memory there is, and how much a training takes."""

from collections.abc import Sequence
from math import ceil, prod
from pathlib import Path

GIB = 2**30
# Of the V-Net's training on CPU, fp32, base_channels 16; `tests/data/test_memory.py` has the measured peaks
_FIXED = 0.75  # program, libraries and compilation
_WEIGHTS = 0.73  # parameters, their gradients and Adam's two moments
_AVERAGE = 0.18  # one more copy of the parameters
_REFERENCE_BLOCK = 128 * 128 * 64
_BLOCK = 0.85  # what grows with the block, of the reference block
_NARROW_BLOCK = 1.07  # the same where base_channels is no multiple of 16; measured at 8, where it is no half of it
_SAMPLE_BYTES = 5  # a voxel of a sample kept in memory: float32 image and uint8 label


def training_memory_gib(block: Sequence[int], batch_size: int, held_voxels: float = 0, base_channels: int = 16,
                        ema: bool = False) -> float:
    """Estimate about how much memory a training of the V-Net takes, GiB.

        peak = 0.75 + (0.73 + 0.18 e) (b/16)^2 + 0.85 ceil(b/16) n v / 2^20 + 5 h / 2^30

    of base channels b, batch size n, voxels of a block v, voxels of all samples held in memory h, and e = 1 with an
    average of the weights; with 1.07 in place of 0.85 where b is no multiple of 16. Weights go with the square of the
    width, activations with width and voxels. The figures are fitted to measured peaks of train.py on AVX-512, at widths
    of 8 and 16: the CPU kernels in fp32, one thread, Adam. Not in it: deep supervision, more than a few classes, the
    copies that augmentation and validation work on (a few volumes), other devices, precisions and numbers of threads.

    Args:
        block: VolSize.
        batch_size: of a rank.
        held_voxels: of the training and validation samples, which stay in memory, all together.
        base_channels: of the network.
        ema: whether `ema_decay` is above 0.
    """
    width = base_channels / 16
    weights = (_WEIGHTS + _AVERAGE * ema) * width**2
    per_block = (_NARROW_BLOCK if base_channels % 16 else _BLOCK) * ceil(width)
    grown = per_block * batch_size * prod(block) / _REFERENCE_BLOCK
    return _FIXED + weights + grown + held_gib(held_voxels)


def held_gib(voxels: float) -> float:
    """Return the memory that samples of so many voxels in all take while they are kept, GiB."""
    return _SAMPLE_BYTES * voxels / GIB


def available_memory_gib(root: Path = Path("/")) -> float:
    """Return the memory that programs can still take, GiB: of the machine, or of the control group where that is less.

    Args:
        root: of the file system that holds `proc` and `sys`.
    """
    lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    groups = root / "sys/fs/cgroup"
    for folder, limit, used, cache in (
            (groups, "memory.max", "memory.current", "inactive_file"),
            (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")):
        try:
            allowed, taken = (int((folder / name).read_text(encoding="utf-8")) for name in (limit, used))
        except (OSError, ValueError):  # no such group, or no limit ("max")
            continue
        available = min(available, max(allowed - max(taken - _group_cache(folder, cache), 0), 0))
    return available / GIB


def _group_cache(folder: Path, name: str) -> int:
    """Return the bytes of files that a control group has read and the system gives back first; they count as used."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
    except (OSError, ValueError, IndexError):
        return 0
