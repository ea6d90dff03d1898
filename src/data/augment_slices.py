"""Augmentation of a picture together with its label, a pure function of its random generator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy import ndimage

CONTROL_POINTS = 3  # of the elastic deformation, along each edge (Ronneberger et al. 2015)


@dataclass(frozen=True)
class SliceAugmentation:
    """Random changes, all of them in every sample; 0 leaves one out.

    Attributes:
        scale_range: 0.05 scales by 0.95 to 1.05.
        rotation: largest angle, degrees, in both directions.
        flip_x, flip_y: probability of mirroring left and right, top and bottom.
        elastic: largest move of the 3 x 3 control points along each axis, share of the picture's edge.
        intensity: 0.1 multiplies each channel by 0.9 to 1.1 and adds -0.1 to 0.1 to it, in standard deviations of a
            z-scored picture.
        mirrored: beyond its edges a picture goes on mirrored, as in Ronneberger et al. 2015, and so does its label;
            else there is class 0, and in each channel the median of its corners.
    """

    scale_range: float = 0.0
    rotation: float = 0.0
    flip_x: float = 0.0
    flip_y: float = 0.0
    elastic: float = 0.0
    intensity: float = 0.0
    mirrored: bool = False
    histogram: ClassVar[float] = 0.0  # the loader asks whether another sample is needed

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "SliceAugmentation":
        """Take the keys `aug_*`. Of the data sets em alone fills its pictures, which are dark around in the others."""
        ranges = {name.removeprefix("aug_"): value for name, value in recipe.items() if name.startswith("aug_")}
        return cls(**ranges, mirrored=recipe["task"] == "em")

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator,
                 spacing: Sequence[float] = (1.0, 1.0, 1.0), other: np.ndarray | None = None,
                 window: tuple[slice, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return a randomly changed copy of a picture and its label.

        All changes in space but the flips are one resampling.

        Args:
            image: (C, H, W) float32, z-scored.
            label: (H, W) uint8 of {0, 1}.
            rng: its state decides everything; equal states give equal results.
            spacing, other, window: not used; `Augmentation` of volumes has them.

        Returns:
            image (C, H, W) float32 and label (H, W) uint8.
        """
        # All is drawn in any case, so that switching one change off leaves the others as they are.
        scale = 1 + self.scale_range * rng.uniform(-1, 1)
        angle = np.deg2rad(self.rotation * rng.uniform(-1, 1))
        shape = np.array(label.shape)
        moves = self.elastic * rng.uniform(-1, 1, (2, CONTROL_POINTS, CONTROL_POINTS)) * shape.reshape(2, 1, 1)
        flip_x, flip_y = rng.random(2) < (self.flip_x, self.flip_y)
        factors = (1 + self.intensity * rng.uniform(-1, 1, (len(image), 1, 1))).astype(np.float32)
        offsets = (self.intensity * rng.uniform(-1, 1, (len(image), 1, 1))).astype(np.float32)
        if self.scale_range or self.rotation or self.elastic:
            positions = source_positions(label.shape, scale, angle, moves)
            mode = "mirror" if self.mirrored else "constant"
            around = np.median(image[:, [0, 0, -1, -1], [0, -1, 0, -1]], axis=1)
            image = np.stack([ndimage.map_coordinates(channel, positions, order=1, mode=mode, cval=float(value))
                              for channel, value in zip(image, around, strict=True)])
            share = ndimage.map_coordinates(label.astype(np.float32), positions, order=1, mode=mode)
            label = (share >= 0.5).astype(np.uint8)
        flipped = (slice(None, None, -1 if flip_y else 1), slice(None, None, -1 if flip_x else 1))
        return np.ascontiguousarray(image[:, *flipped] * factors + offsets), np.ascontiguousarray(label[flipped])


def source_positions(shape: Sequence[int], scale: float, angle: float, moves: np.ndarray) -> np.ndarray:
    """Return where each output pixel takes its value: c + R (o - c) / scale + d(o), c being the picture's centre.

    R turns by `angle`, and d interpolates the moves of control points that lie evenly from edge to edge, by cubic
    splines along both axes.

    Args:
        shape: of the picture (H, W).
        scale: above 1 enlarges.
        angle: radians.
        moves: (2, 3, 3) of the control points along rows and columns, pixels.

    Returns:
        (2, H, W) float32 of rows and columns.
    """
    rows, columns = (np.arange(count) - (count - 1) / 2 for count in shape)
    y, x = rows[:, np.newaxis] / scale, columns[np.newaxis] / scale
    cosine, sine = np.cos(angle), np.sin(angle)
    affine = np.stack([cosine * y - sine * x + (shape[0] - 1) / 2, sine * y + cosine * x + (shape[1] - 1) / 2])
    down, across = (_spline_weights(count) for count in shape)
    return (affine + down @ moves @ across.T).astype(np.float32)


def _spline_weights(count: int) -> np.ndarray:
    """Return the weights (count, 3) of control points at an axis's first, middle and last pixel."""
    places = np.linspace(0, CONTROL_POINTS - 1, count)
    return np.stack([ndimage.map_coordinates(point, places[np.newaxis], order=3, mode="mirror")
                     for point in np.eye(CONTROL_POINTS)], axis=1)
