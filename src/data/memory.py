"""How much memory there is, and how much a training takes."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

GIB = 2**30
# Of the V-Net's training on CPU, fp32, base_channels 16, one block of 128 x 128 x 64: a peak of 2.11 GiB, in it
_FIXED = 0.55  # program and libraries
_WEIGHTS = 0.73  # parameters, their gradients and Adam's two moments
_REFERENCE_BLOCK = 128 * 128 * 64
_BLOCK = 2.11 - _FIXED - _WEIGHTS  # what grows with the block
_SAMPLE_BYTES = 5  # a voxel of a sample kept in memory: float32 image and uint8 label


def training_memory_gib(block: Sequence[int], batch_size: int, held_voxels: int = 0, base_channels: int = 16) -> float:
    """Estimate the memory that a training of the V-Net takes at most, GiB.

        peak = 0.55 + 0.73 (b/16)^2 + 0.83 (b/16) n v / 2^20 + 5 h / 2^30

    of base channels b, batch size n, voxels of a block v, and voxels of all samples held in memory h: weights go with
    the square of the width, activations with width and voxels. The figures are one measurement on the CPU kernels in
    fp32 with Adam. Not in it: an average of the weights (`ema_decay`), deep supervision, more than a few classes, the
    copies that augmentation and validation work on (a few volumes), other devices and precisions.

    Args:
        block: VolSize.
        batch_size: of a rank.
        held_voxels: of the training samples, which stay in memory, all together.
        base_channels: of the network.
    """
    width = base_channels / 16
    grown = _BLOCK * width * batch_size * prod(block) / _REFERENCE_BLOCK
    return _FIXED + _WEIGHTS * width**2 + grown + _SAMPLE_BYTES * held_voxels / GIB


def available_memory_gib(root: Path = Path("/")) -> float:
    """Return the memory that programs can still take, GiB: of the machine, or of the control group where that is less.

    Args:
        root: of the file system that holds `proc` and `sys`.
    """
    lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    for limit, used in (("memory.max", "memory.current"),
                        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            allowed, taken = ((root / "sys/fs/cgroup" / name).read_text(encoding="utf-8") for name in (limit, used))
            available = min(available, max(int(allowed) - int(taken), 0))
        except (OSError, ValueError):  # no such group, or no limit ("max")
            continue
    return available / GIB
