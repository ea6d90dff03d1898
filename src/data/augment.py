"""Augmentation of an image together with its label, a pure function of its random generator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.data.augment_intensity import (
    add_noise,
    blur,
    change_contrast,
    change_gamma,
    lower_resolution,
    shade,
)
from src.data.augment_space import CELLS, CONTROL_POINTS, affine_matrix, resample, source_positions
from src.data.histogram import landmarks, match_histogram

# Control points move by up to this in mm along each axis: uniform, it has the standard deviation of 15 mm that the
# authors of Milletari et al. 2016 take in their code ...
DEFORM_MM = 26.0
# ... and by up to this share of the shortest cell: below 0.403 nothing folds (Choi and Lee 2000, 3-D cubic B-splines).
DEFORM_CELL = 0.4
ROTATION_DEGREES = 15.0
SHIFT_SHARE = 0.05  # of the block's edge
NOISE = (0.0, 0.1)  # standard deviation, in those of the z-scored image, as the next ones
BRIGHTNESS = 0.25
BLUR = (0.5, 1.0)  # standard deviation, in the shortest voxel edge
CONTRAST = (0.75, 1.25)
GAMMA = (0.7, 1.5)  # drawn by its logarithm
GAMMA_INVERTED = 0.25  # share of the gamma changes that are of the negative
BIAS = 0.5  # largest log gain of a bias field at its nodes: 0.6 to 1.65 times
LOW_RESOLUTION = (1.25, 2.0)  # voxel length, in the shortest voxel edge


@dataclass(frozen=True)
class Augmentation:
    """Random changes, each with a probability of its own; the constants above are their ranges.

    Attributes:
        deform: B-spline deformation on a grid of 2 x 2 x 2 cells.
        histogram: histogram matching to another scan.
        rotate, scale, shift: in space, in mm.
        scale_range: 0.15 scales by 0.85 to 1.15.
        stretch: scaling by another factor along each axis of the image.
        mirror: of each of `mirror_axes`.
        noise, blur, brightness, contrast, gamma, low_resolution, bias: of the intensities.
        mirror_axes: 0, 1, 2 for x, y, z.
        spacing: of the voxels, mm (x, y, z), in place of the caller's, for images whose headers have lost it.
    """

    deform: float = 0.0
    histogram: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    scale_range: float = 0.15
    stretch: float = 0.0
    shift: float = 0.0
    mirror: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    low_resolution: float = 0.0
    bias: float = 0.0
    mirror_axes: tuple[int, ...] = ()
    spacing: tuple[float, ...] | None = None

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "Augmentation":
        """Take the keys `aug_*` and `mirror_axes`."""
        changes = {name.removeprefix("aug_"): value for name, value in recipe.items() if name.startswith("aug_")}
        axes, spacing = recipe["mirror_axes"], changes.pop("spacing")
        return cls(**changes, mirror_axes=() if axes == "none" else tuple("xyz".index(axis) for axis in axes),
                   spacing=tuple(spacing) if any(spacing) else None)

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator,
                 spacing: Sequence[float] = (1.0, 1.0, 1.0), other: np.ndarray | None = None,
                 window: tuple[slice, slice, slice] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return a randomly changed copy of an image and its label; they themselves where nothing was drawn.

        All changes in space are one resampling. Around the volume lies its least value, and class 0.

        Args:
            image: (x, y, z) float32, z-scored.
            label: (x, y, z) uint8 of classes.
            rng: its state decides everything; equal states give equal results.
            spacing: of the voxels, mm (x, y, z).
            other: (x', y', z') float32, the scan to match the histogram to; None matches none.
            window: the patch of the volume to return. What turns into it from beyond its edges is real data then.

        Returns:
            image (X, Y, Z) float32 and label (X, Y, Z) uint8, of the window's shape.
        """
        spacing = self.spacing or spacing
        window = window or (slice(0, image.shape[0]), slice(0, image.shape[1]), slice(0, image.shape[2]))
        new_image, new_label = self._move(image, label, rng, spacing, window)
        flipped = tuple(slice(None, None, -1 if axis in self.mirror_axes and rng.random() < self.mirror else 1)
                        for axis in range(3))
        new_image, new_label = (np.ascontiguousarray(array[flipped]) for array in (new_image, new_label))
        if rng.random() < self.histogram and other is not None:
            new_image = match_histogram(new_image, landmarks(image), landmarks(other))
        return self._change_intensity(new_image, rng, spacing), new_label

    def _move(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator, spacing: Sequence[float],
              window: tuple[slice, slice, slice]) -> tuple[np.ndarray, np.ndarray]:
        shape = [part.stop - part.start for part in window]
        deform, rotate, scale, shift = rng.random(4) < (self.deform, self.rotate, self.scale, self.shift)
        stretch = self.stretch > 0 and rng.random() < self.stretch  # no draw at 0: the others stay what they were
        if not (deform or rotate or scale or shift or stretch):
            return image[window], label[window]
        displacement = random_displacement(shape, spacing, rng) if deform else None
        angles = np.deg2rad(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, 3)) if rotate else np.zeros(3)
        factors = np.full(3, 1 + self.scale_range * rng.uniform(-1, 1) if scale else 1.0)
        offset = rng.uniform(-SHIFT_SHARE, SHIFT_SHARE, 3) * shape if shift else np.zeros(3)
        if stretch:
            factors *= 1 + self.scale_range * rng.uniform(-1, 1, 3)
        offset += [part.start for part in window]
        positions = source_positions(shape, affine_matrix(angles, factors, spacing), offset, displacement)
        return resample(image, label, positions, float(image.min()))

    def _change_intensity(self, image: np.ndarray, rng: np.random.Generator, spacing: Sequence[float]) -> np.ndarray:
        shortest = min(spacing)
        if rng.random() < self.noise:
            image = add_noise(image, rng.uniform(*NOISE), rng)
        if rng.random() < self.blur:
            image = blur(image, rng.uniform(*BLUR) * shortest, spacing)
        if rng.random() < self.brightness:
            image = image + np.float32(rng.uniform(-BRIGHTNESS, BRIGHTNESS))
        if rng.random() < self.contrast:
            image = change_contrast(image, rng.uniform(*CONTRAST))
        if rng.random() < self.low_resolution:
            image = lower_resolution(image, rng.uniform(*LOW_RESOLUTION) * shortest, spacing)
        if rng.random() < self.gamma:
            exponent = float(np.exp(rng.uniform(*np.log(GAMMA))))
            image = change_gamma(image, exponent, inverted=rng.random() < GAMMA_INVERTED)
        if rng.random() < self.bias:
            image = shade(image, rng.uniform(-BIAS, BIAS, (3, 3, 3)))
        return image


def random_displacement(shape: Sequence[int], spacing: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Draw how far the control points over a block of `shape` voxels move.

    The bound is one length in mm for all axes: tissue is as soft along thick slices as across them.

    Returns:
        (3, 5, 5, 5) float64, voxels.
    """
    lengths = np.asarray(spacing, dtype=np.float64)
    bound = min(DEFORM_MM, DEFORM_CELL * float((lengths * shape).min()) / CELLS)
    return rng.uniform(-bound, bound, (3, *[CONTROL_POINTS] * 3)) / lengths.reshape(3, 1, 1, 1)
