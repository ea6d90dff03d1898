"""Distances in mm between the surfaces of two masks.

A mask's surface are its voxels with a face neighbour outside the mask; beyond the image's border is outside.
Distances run between the centres of surface voxels. d(p, R) is the distance of a surface point p of the
prediction P to the nearest surface point of the reference R, and the other way round for d(r, P).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from src.metrics.masks import mask_pair


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces, in mm.

    Attributes:
        hausdorff: max(max_p d(p, R), max_r d(r, P)).
        hd95: max of the two directed 95th percentiles (linear interpolation), which is PROMISE12's
            "95 % Hausdorff distance".
        average_boundary_distance: (sum_p d(p, R) + sum_r d(r, P)) / (|P| + |R|) over all surface points of
            both, PROMISE12's "average boundary distance".

    Source: Litjens et al. 2014, Evaluation of prostate segmentation algorithms for MRI: the PROMISE12
    challenge, doi:10.1016/j.media.2013.12.002.
    """

    hausdorff: float
    hd95: float
    average_boundary_distance: float


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], part: np.ndarray | None = None
) -> SurfaceDistances:
    """Hausdorff distance, its 95th percentile and the average boundary distance of two masks.

    Args:
        prediction, reference: (X, Y, Z) masks; non-zero is foreground.
        spacing: (x, y, z) distance of neighbouring voxels in mm.
        part: (X, Y, Z) bool, the part of the image to look at; all of it by default. Of both surfaces the points in
            it count, with their distances to the whole of the other surface: its border is no boundary.

    Returns:
        All three 0 when neither mask has a surface point to count, and the diagonal of the whole image (voxels times
        spacing) when one of them has none: no real pair of surfaces in the image lies further apart.

    Raises:
        ValueError: the shapes differ, a mask is not a mask, or the spacing does not fit the masks.
    """
    prediction, reference = mask_pair(prediction, reference)
    steps = checked_spacing(spacing, prediction.ndim)
    # All surface points lie in the bounding box of both masks, so their mutual distances need nothing beyond it.
    foreground = prediction | reference
    box = bounding_box(foreground) if foreground.any() else (slice(0, 0),) * foreground.ndim
    surface_p, surface_r = surface(prediction[box]), surface(reference[box])
    counted_p, counted_r = (
        (surface_p, surface_r) if part is None else (surface_p & part[box], surface_r & part[box])
    )
    if not counted_p.any() or not counted_r.any():
        both_empty = not counted_p.any() and not counted_r.any()
        distance = 0.0 if both_empty else float(np.linalg.norm(np.asarray(prediction.shape) * steps))
        return SurfaceDistances(distance, distance, distance)
    directed = (
        ndimage.distance_transform_edt(~surface_r, sampling=steps)[counted_p],
        ndimage.distance_transform_edt(~surface_p, sampling=steps)[counted_r],
    )
    return SurfaceDistances(
        hausdorff=float(max(distances.max() for distances in directed)),
        hd95=float(max(np.percentile(distances, 95) for distances in directed)),
        average_boundary_distance=float(np.concatenate(directed).mean()),
    )


def surface(mask: np.ndarray) -> np.ndarray:
    """The voxels of a bool mask with a face neighbour outside it; the array's border counts as outside."""
    faces = ndimage.generate_binary_structure(mask.ndim, 1)
    return mask & ~ndimage.binary_erosion(mask, faces, border_value=0)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Slices of the smallest box that holds the foreground of a bool mask.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("an empty mask has no bounding box")
    axes = range(mask.ndim)
    occupied = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(int(indices[0]), int(indices[-1]) + 1) for indices in occupied)


def checked_spacing(spacing: Sequence[float], dimensions: int) -> np.ndarray:
    """`spacing` as a float64 array.

    Raises:
        ValueError: not one finite, positive number an axis.
    """
    steps = np.asarray(spacing, dtype=np.float64)
    if steps.shape != (dimensions,) or not np.isfinite(steps).all() or (steps <= 0).any():
        raise ValueError(f"expected a spacing of {dimensions} positive numbers in mm (x, y, z), got {spacing!r}")
    return steps
