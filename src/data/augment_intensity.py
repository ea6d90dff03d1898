"""Changes of a z-scored block's intensities. None of them touches its argument; images are (X, Y, Z) float32."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def add_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of a standard deviation."""
    return image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(deviation)


def blur(image: np.ndarray, deviation_mm: float, spacing: Sequence[float]) -> np.ndarray:
    """Blur by a Gaussian of a standard deviation in mm, equally wide along all axes in space."""
    return ndimage.gaussian_filter(image, [deviation_mm / length for length in spacing], truncate=3.0)


def change_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the differences from the mean, and clip to the former range."""
    mean = image.mean(dtype=np.float64)
    return np.clip((image - np.float32(mean)) * np.float32(factor) + np.float32(mean), image.min(), image.max())


def change_gamma(image: np.ndarray, exponent: float, inverted: bool = False) -> np.ndarray:
    """Raise the image, scaled to [0, 1], to a power, and give it its mean and standard deviation back.

    Args:
        image: the block.
        exponent: above 1 darkens the middle.
        inverted: whether the power is taken of the negative, as nnU-Net does (Isensee et al. 2021).
    """
    source = -image if inverted else image
    low, high = source.min(), source.max()
    if not high > low:
        return image
    changed = ((source - low) / (high - low)) ** np.float32(exponent)
    mean, deviation = (float(value) for value in (changed.mean(dtype=np.float64), changed.std(dtype=np.float64)))
    factor = float(source.std(dtype=np.float64)) / deviation
    changed = changed * np.float32(factor) + np.float32(float(source.mean(dtype=np.float64)) - mean * factor)
    return -changed if inverted else changed


def shade(image: np.ndarray, log_gains: np.ndarray) -> np.ndarray:
    """Multiply by a smooth field, as an uneven coil does: a bias field (Sled et al. 1998, "A nonparametric method").

    The field is e to the power of the polynomial, of degree 2 along each axis, through the log gains at the block's
    ends and middle. It acts on the differences from the least value, where there is no signal to amplify.

    Args:
        image: the block.
        log_gains: (3, 3, 3), at first, middle and last voxel of each axis.
    """
    x, y, z = (_parabolas(count) for count in image.shape)
    field = np.exp(np.einsum("ijk,xi,yj,zk->xyz", log_gains, x, y, z, optimize=True)).astype(np.float32)
    low = image.min()
    return (image - low) * field + low


def lower_resolution(image: np.ndarray, length: float, spacing: Sequence[float]) -> np.ndarray:
    """Return the image as voxels of `length` mm would show it, on its own grid.

    Larger voxels are means over the part that each covers; between their centres the way back is linear. Axes whose
    voxels are that long already stay as they are.
    """
    for axis, own in enumerate(spacing):
        count = image.shape[axis]
        coarse = max(round(count * own / length), 1)
        if coarse < count:
            matrix = _coarse_and_back(count, coarse).astype(np.float32)
            image = np.moveaxis(np.tensordot(matrix, image, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(image)


def _parabolas(count: int) -> np.ndarray:
    """Return (count, 3): Lagrange's polynomials of the first, middle and last place of an axis, at each voxel."""
    t = np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
    return np.stack((t * (t - 1) / 2, 1 - t * t, t * (t + 1) / 2), axis=1)


def _coarse_and_back(count: int, coarse: int) -> np.ndarray:
    """Return (count, count): means over `coarse` equal parts of an axis, then linear interpolation of their centres."""
    edges = np.linspace(0, count, coarse + 1)[:, np.newaxis]
    voxel = np.arange(count)
    overlap = np.minimum(edges[1:], voxel + 1) - np.maximum(edges[:-1], voxel)
    down = np.maximum(overlap, 0) * coarse / count
    place = np.clip((voxel + 0.5) * coarse / count - 0.5, 0, coarse - 1)
    up = np.maximum(1 - np.abs(place[:, np.newaxis] - np.arange(coarse)), 0)
    return up @ down
