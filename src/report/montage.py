"""Which part of a volume a picture shows: orientation on screen, slices and crop."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.metrics.surface import bounding_box, checked_spacing

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CONTEXT = 1.9  # side of the crop as a multiple of the object's
SMALLEST_SHARE = 0.4  # of the image's longer side: less than this shows no surroundings


@dataclass(frozen=True)
class View:
    """A volume and its masks as a reader sees them: axis 0 runs to the right, axis 1 down, axis 2 through slices.

    Attributes:
        image: (X, Y, Z) float32.
        prediction, reference: (X, Y, Z) uint8, the class of each voxel, or None.
        spacing: (x, y, z) in mm of the axes as they are here.
        backwards: slices run from the last to the first.
    """

    image: np.ndarray
    prediction: np.ndarray | None
    reference: np.ndarray | None
    spacing: tuple[float, float, float]
    backwards: bool

    @property
    def foreground(self) -> np.ndarray:
        """(X, Y, Z) bool: voxels in either mask."""
        masks = [mask for mask in (self.prediction, self.reference) if mask is not None]
        return np.logical_or.reduce(masks) if masks else np.zeros(self.image.shape, dtype=bool)


def make_view(
    image: np.ndarray,
    prediction: np.ndarray | None,
    reference: np.ndarray | None,
    spacing: Sequence[float],
    direction: Sequence[float],
) -> View:
    """Turn a volume to the radiological convention, slices staying slices along z.

    Axial slices are shown from below (patient's left on the right, front on top), coronal ones from the
    front, sagittal ones with the nose to the left; oblique volumes as the nearest of these.

    Args:
        image: (X, Y, Z) intensities; voxels that are not finite are shown black.
        prediction, reference: (X, Y, Z) masks (0 is background, k is class k) or None.
        spacing: (x, y, z) in mm.
        direction: 9 numbers, row major, LPS: its columns are the directions of the array's axes.

    Raises:
        ValueError: the image is not three-dimensional, or shapes, spacing or direction do not fit it.
    """
    image = np.asarray(image)
    if image.ndim != 3 or not image.size:
        raise ValueError(f"expected an image of shape (X, Y, Z) with voxels in it, got shape {image.shape}")
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if mask is not None and np.shape(mask) != image.shape:
            raise ValueError(f"the {name} has shape {np.shape(mask)} and the image {image.shape}; expected one shape")
    steps = checked_spacing(spacing, 3)
    axes = np.asarray(direction, dtype=np.float64).reshape(-1)
    if axes.shape != (9,) or not np.isfinite(axes).all():
        raise ValueError(f"expected a direction of 9 numbers, row major, got {direction!r}")
    axes = axes.reshape(3, 3)
    patient = np.abs(axes).argmax(axis=0)  # per array axis: 0 right-left, 1 front-back, 2 feet-head
    positive = axes[patient, range(3)] > 0
    order = (1, 0, 2) if patient[0] > patient[1] else (0, 1, 2)
    right, down = order[0], order[1]
    flip_right = not positive[right]
    flip_down = positive[down] if patient[down] == 2 else not positive[down]

    def turned(array: np.ndarray) -> np.ndarray:
        array = array.transpose(order)
        return array[:: -1 if flip_right else 1, :: -1 if flip_down else 1]

    return View(
        image=turned(np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)),
        prediction=None if prediction is None else turned(np.asarray(prediction).astype(np.uint8)),
        reference=None if reference is None else turned(np.asarray(reference).astype(np.uint8)),
        spacing=(float(steps[right]), float(steps[down]), float(steps[2])),
        backwards=not positive[2],
    )


def choose_slices(view: View, count: int = 5) -> list[int]:
    """At most `count` z indices in the order they are shown.

    They are evenly spread from the first to the last slice with foreground, ends included, since base and apex
    are where outlines differ most; around the middle of the volume where there is no foreground. A thin
    object is shown with its neighbouring slices.
    """
    depth = view.image.shape[2]
    occupied = np.flatnonzero(view.foreground.any(axis=(0, 1)))
    if occupied.size:
        first, last = int(occupied[0]), int(occupied[-1])
    else:
        first = last = depth // 2
    wanted = min(count, depth)
    if last - first + 1 < wanted:
        first = min(max(first - (wanted - (last - first + 1)) // 2, 0), depth - wanted)
        last = first + wanted - 1
    chosen = sorted({round(position) for position in np.linspace(first, last, wanted)})
    return chosen[::-1] if view.backwards else chosen


def crop_window(view: View) -> tuple[slice, slice]:
    """In-plane part of the image to show: a square in mm around the foreground, with surroundings, in the image.

    The whole plane where there is no foreground.
    """
    foreground = view.foreground.any(axis=2)
    if not foreground.any():
        return slice(0, foreground.shape[0]), slice(0, foreground.shape[1])
    box = bounding_box(foreground)
    extent = [view.spacing[axis] * foreground.shape[axis] for axis in range(2)]
    sides = [view.spacing[axis] * (box[axis].stop - box[axis].start) for axis in range(2)]
    side = max(CONTEXT * max(sides), SMALLEST_SHARE * max(extent))

    def part(axis: int) -> slice:
        size = foreground.shape[axis]
        length = min(size, max(1, round(side / view.spacing[axis])))
        start = (box[axis].start + box[axis].stop - length) // 2
        start = min(max(start, 0), size - length)
        return slice(start, start + length)

    return part(0), part(1)


def grey_window(pixels: np.ndarray) -> tuple[float, float]:
    """Intensities to show black and white for cropped slices (X, Y, N).

    The 1st and 99th percentile of the middle half of the crop, where the object is: neither single spikes
    nor bright surroundings (an endorectal coil, fat) leave the object dark.
    """
    middle = tuple(slice(size // 4, size - size // 4) for size in pixels.shape[:2])
    low, high = (float(value) for value in np.percentile(pixels[middle], (1.0, 99.0)))
    return (low, high) if high > low else (low, low + 1.0)
