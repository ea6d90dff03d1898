"""Random patches of whole volumes, many of them around foreground."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_MOST_VOXELS = 10_000  # of a class that are remembered: a patch needs one, at random


@dataclass(frozen=True)
class PatchSampler:
    """Places patches in volumes.

    Attributes:
        size: of a patch, voxels (x, y, z).
        foreground_share: probability that a patch is placed so that it holds a given foreground voxel.
        per_case: patches of a case and epoch.
    """

    size: tuple[int, int, int]
    foreground_share: float = 0.0
    per_case: int = 1

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "PatchSampler":
        """Take `VolSize`, `foreground_share` and `patches_per_case`."""
        x, y, z = recipe["VolSize"]
        return cls((x, y, z), recipe["foreground_share"], recipe["patches_per_case"])

    def place(self, shape: Sequence[int], foreground: Sequence[np.ndarray],
              rng: np.random.Generator) -> tuple[slice, slice, slice]:
        """Return the slices that cut a random patch out of a volume.

        With probability `foreground_share`, a foreground class that is present is drawn, then one of its voxels, then a
        position among those that hold it. Else all positions are equally likely. Patches never reach beyond the volume.

        Args:
            shape: of the volume (x, y, z), nowhere smaller than the patch.
            foreground: see `foreground_voxels`.
            rng: its state decides everything.

        Raises:
            ValueError: the volume is smaller than the patch.
        """
        if any(n < size for n, size in zip(shape, self.size, strict=True)):
            raise ValueError(f"a patch of {self.size} voxels does not fit into a volume of {tuple(shape)}")
        lowest, highest = np.zeros(3, int), np.subtract(shape, self.size)
        if rng.random() < self.foreground_share and foreground:
            voxels = foreground[rng.integers(len(foreground))]
            voxel = np.array(np.unravel_index(voxels[rng.integers(len(voxels))], tuple(shape)))
            lowest, highest = np.maximum(lowest, voxel - self.size + 1), np.minimum(highest, voxel)
        start = rng.integers(lowest, highest + 1)
        x, y, z = (slice(int(first), int(first) + size) for first, size in zip(start, self.size, strict=True))
        return x, y, z


def foreground_voxels(label: np.ndarray) -> list[np.ndarray]:
    """Return the flat indices of each foreground class that is present, int32; of large ones an evenly spaced part.

    Args:
        label: (x, y, z) of classes; 0 is background.
    """
    flat = label.ravel()
    inside = np.flatnonzero(flat).astype(np.int32)
    classes = flat[inside]
    found = [inside[classes == value] for value in np.unique(classes)]
    return [voxels[:: -(-len(voxels) // _MOST_VOXELS)].copy() for voxels in found]
