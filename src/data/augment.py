"""Augmentation of an image block together with its label, a pure function of its random generator."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

ROTATION_DEGREES = 10.0
SCALE = 0.1
SHIFT_SHARE = 0.05  # of the block's edge
GAMMA = 0.3
BRIGHTNESS = 0.2  # in standard deviations of the z-scored image
NOISE = 0.05


def augment(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Return a randomly rotated, scaled, shifted, gamma- and brightness-changed copy of an image and its label.

    Args:
        image: (X, Y, Z) float32, z-scored.
        label: (X, Y, Z) uint8 with 0 and 1.
        rng: its state decides everything; equal states give equal results.
        spacing: of the voxels, mm (x, y, z); the rotation is one in space.

    Returns:
        image (X, Y, Z) float32 and label (X, Y, Z) uint8 with 0 and 1.
    """
    matrix, offset = _random_affine(image.shape, rng, spacing)
    low = float(image.min())
    image = ndimage.affine_transform(image, matrix, offset, order=1, mode="constant", cval=low)
    label = ndimage.affine_transform(label.astype(np.float32), matrix, offset, order=1) > 0.5
    return _random_intensity(image, low, rng), label.astype(np.uint8)


def _random_affine(
    shape: tuple[int, ...], rng: np.random.Generator, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return matrix and offset that map output to input voxels: rotation and scale about the centre, and a shift."""
    angles = np.deg2rad(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, 3))
    matrix = np.eye(3) * rng.uniform(1 - SCALE, 1 + SCALE)
    for axis, angle in enumerate(angles):
        first, second = [other for other in range(3) if other != axis]
        rotation = np.eye(3)
        rotation[first, first] = rotation[second, second] = np.cos(angle)
        rotation[first, second], rotation[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ rotation
    # The matrix turns lengths in mm; between voxel indices it is inverse(diag(spacing)) @ matrix @ diag(spacing).
    # Without that, a rotation of voxels of 1 x 1 x 1.5 mm shears the anatomy.
    lengths = np.asarray(spacing, dtype=np.float64)
    matrix = matrix * (lengths[np.newaxis, :] / lengths[:, np.newaxis])
    size = np.asarray(shape, dtype=np.float64)
    centre = (size - 1) / 2
    shift = rng.uniform(-SHIFT_SHARE, SHIFT_SHARE, 3) * size
    return matrix, centre - matrix @ centre + shift


def _random_intensity(image: np.ndarray, low: float, rng: np.random.Generator) -> np.ndarray:
    """Return the image after a random gamma, brightness shift and Gaussian noise, as float32."""
    span = max(float(image.max()) - low, 1e-6)
    gamma = np.exp(rng.uniform(-GAMMA, GAMMA))
    image = ((image - low) / span) ** gamma * span + low
    image += rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    image += rng.normal(0, NOISE, image.shape)
    return image.astype(np.float32)
