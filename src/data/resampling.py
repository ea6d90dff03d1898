"""Interpolation from grid to grid: linear, of values and of the classes of a label, or of the nearest voxel.

With `volume_files.py` the only file that knows SimpleITK.
"""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from src.data.geometry import Geometry
from src.data.volume_files import to_image

_ROUNDING = 1e-6  # of the float32 fractions of a voxel, which have to sum to 1


def resample(array: np.ndarray, source: Geometry, target: Geometry, outside: float = 0.0) -> np.ndarray:
    """Interpolate float32 voxels (x, y, z) linearly onto another grid; the result is C-contiguous.

    Args:
        array: voxels on the grid `source`.
        source, target: the grids.
        outside: value of voxels that lie outside the source.

    Raises:
        ValueError: array and `source` differ in size.
    """
    if array.shape != source.size:
        raise ValueError(f"array of shape {array.shape} for a grid of {source.size}")
    resampled = sitk.Resample(to_image(array, source), target.size, sitk.Transform(3, sitk.sitkIdentity),
                              sitk.sitkLinear, target.origin, target.spacing, target.direction, outside,
                              sitk.sitkFloat32)
    # A copy in any case: the memory goes with the image, and of a volume one voxel thick the view is contiguous.
    return sitk.GetArrayViewFromImage(resampled).transpose(2, 1, 0).copy()


def class_fractions(label: np.ndarray, source: Geometry, target: Geometry, classes: int) -> np.ndarray:
    """Return how much of each voxel of another grid each class fills: (C, X, Y, Z) float32, which sum to 1.

    Each foreground class's indicator (1 where the label is that class, else 0) is interpolated linearly. What no
    foreground class fills is background, all that lies outside the label included.

    Args:
        label: (x, y, z) of 0 .. classes - 1.
        source, target: grids of the label and of the result.
        classes: C, background included.
    """
    fractions = np.empty((classes, *target.size), np.float32)
    for number in range(1, classes):
        fractions[number] = resample((label == number).astype(np.float32), source, target)
    fractions[0] = np.maximum(1 - fractions[1:].sum(axis=0), 0)
    return fractions


def largest_class(fractions: np.ndarray) -> np.ndarray:
    """Return the class with the largest fraction, (X, Y, Z) uint8, of fractions (C, X, Y, Z).

    Where background and a foreground class are equal the foreground has it, as a voxel of which one half is foreground
    counts as foreground with two classes; of two foreground classes that are equal the lower number has it.
    """
    foreground = fractions[1:]
    label = (foreground.argmax(axis=0) + 1).astype(np.uint8)
    label[foreground.max(axis=0) < fractions[0] - _ROUNDING] = 0
    return label


def resize_nearest(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return an array (..., x, y, z) resized to `size`: each voxel takes the one that its centre lies in."""
    for axis, count in zip((-3, -2, -1), size, strict=True):
        present = array.shape[axis]
        if count != present:
            index = ((2 * np.arange(count) + 1) * present) // (2 * count)
            array = np.take(array, index, axis=axis)
    return array
