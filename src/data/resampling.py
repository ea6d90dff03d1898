"""Interpolation from grid to grid: linear, of values and of the classes of a label, or of the nearest voxel.

With `volume_files.py` the only file that knows SimpleITK, which interpolates between grids that are turned against each
other. Nearly all are parallel, and there the interpolation falls apart into one along each axis, several times as fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from src.data.geometry import Geometry
from src.data.volume_files import to_image

_ROUNDING = 1e-6  # of fractions of a voxel: shares of classes, which have to sum to 1, and positions


def resample(array: np.ndarray, source: Geometry, target: Geometry, outside: float = 0.0) -> np.ndarray:
    """Interpolate voxels (x, y, z) linearly onto another grid; float32, C-contiguous.

    As ITK does it: a point up to half a voxel beyond the outermost centres has the value of the nearest point between
    them.

    Args:
        array: voxels on the grid `source`.
        source, target: the grids.
        outside: value of voxels whose centre lies outside the source.

    Raises:
        ValueError: array and `source` differ in size.
    """
    if array.shape != source.size:
        raise ValueError(f"array of shape {array.shape} for a grid of {source.size}")
    if source.direction == target.direction:
        return _resample_parallel(array, source, target, outside)
    resampled = sitk.Resample(to_image(array, source), target.size, sitk.Transform(3, sitk.sitkIdentity),
                              sitk.sitkLinear, target.origin, target.spacing, target.direction, outside,
                              sitk.sitkFloat32)
    # A copy in any case: the memory goes with the image, and of a volume one voxel thick the view is contiguous.
    return sitk.GetArrayViewFromImage(resampled).transpose(2, 1, 0).copy()


@dataclass(frozen=True, eq=False)
class _Line:
    """Linear interpolation along one axis.

    Attributes:
        source: the voxels of the source that are needed.
        target: the voxels of the target that lie in the source; empty where none does.
        low, high: numbers of the neighbours, counted from `source.start`, of each voxel of `target`.
        weight: float32, of `high`; `low` has the rest.
    """

    source: slice
    target: slice
    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray

    @classmethod
    def between(cls, first: float, step: float, size: int, count: int) -> "_Line":
        """Make the line of `count` voxels at `first + k * step` in the index of a source of `size` voxels."""
        index = first + step * np.arange(count)
        inside = np.flatnonzero((index >= -0.5 - _ROUNDING) & (index < size - 0.5 - _ROUNDING))
        if not len(inside):
            return cls(slice(0, 0), slice(0, 0), inside, inside, np.empty(0, np.float32))
        index = index[inside].clip(0, size - 1)
        low = index.astype(int)
        high = np.minimum(low + 1, size - 1)
        return cls(slice(low[0], high[-1] + 1), slice(inside[0], inside[-1] + 1), low - low[0], high - low[0],
                   (index - low).astype(np.float32))

    def along(self, slab: np.ndarray, axis: int) -> np.ndarray:
        """Interpolate a slab (rows, columns) along one of its axes."""
        low, high = slab.take(self.low, axis), slab.take(self.high, axis)
        # low + weight * (high - low) leaves constant regions exactly constant.
        high -= low
        high *= self.weight[:, None] if axis == 0 else self.weight
        high += low
        return high


def _resample_parallel(array: np.ndarray, source: Geometry, target: Geometry, outside: float) -> np.ndarray:
    """Interpolate between grids with parallel axes: axis by axis, and slab by slab so that all stays in the cache."""
    first = source.point_to_index(np.array(target.origin))
    step = np.array(target.spacing) / np.array(source.spacing)
    x, y, z = (_Line.between(*arguments) for arguments in zip(first, step, source.size, target.size, strict=True))
    result = np.full(target.size, outside, np.float32)
    values = np.ascontiguousarray(array[x.source, y.source, z.source], np.float32)
    # The axis that loses most, or gains least, comes first.
    order = [(y, 0), (z, 1)]
    order.sort(key=lambda pair: len(pair[0].low) / max(values.shape[1 + pair[1]], 1))
    between = result[x.target, y.target, z.target]
    for slab, low, high, weight in zip(between, x.low, x.high, x.weight, strict=True):
        part = values[low] + weight * (values[high] - values[low])
        for line, axis in order:
            part = line.along(part, axis)
        slab[...] = part
    return result


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


def half_filled(fraction: np.ndarray) -> np.ndarray:
    """Return uint8: 1 where the foreground's fraction of a voxel is at least one half, rounding forgiven, else 0."""
    return (fraction >= 0.5 - _ROUNDING).astype(np.uint8)


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
