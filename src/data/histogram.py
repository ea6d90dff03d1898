"""Histogram matching of one scan to another, through the quantiles of both."""

import math

import numpy as np

QUANTILES = 256
_MOST_VOXELS = 65536  # that quantiles are taken of: their error is then that of 1 / 256 in rank at most
_TABLE = 4096


def landmarks(image: np.ndarray) -> np.ndarray:
    """Return the background's value and the quantiles of the foreground.

    Background is what has the image's least value: z-scored blocks have it where the scan is black or ends. Of large
    images the quantiles are those of evenly spaced voxels.

    Args:
        image: (X, Y, Z).

    Returns:
        (1 + 256,) float64, rising; the first value alone when there is no foreground.
    """
    flat = image.ravel()
    low = flat.min()
    step = max(flat.size // _MOST_VOXELS, 1)
    while math.gcd(step, flat.size) > 1:  # else some rows or slices would never be seen
        step += 1
    foreground = flat[::step]
    foreground = foreground[foreground > low]
    if not foreground.size:
        return np.array([low], np.float64)
    return np.concatenate([[low], np.quantile(foreground, np.linspace(0, 1, QUANTILES))]).astype(np.float64)


def match_histogram(image: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Give an image, or a part of it, the intensities of another scan: each quantile goes to the other's.

    Args:
        image: (X, Y, Z) float32.
        own: landmarks of the scan that the image is of.
        other: landmarks of the other scan.

    Returns:
        (X, Y, Z) float32; a rising function of the intensity, background to background, ends beyond the landmarks.
        The image itself when one of the scans has no foreground.
    """
    if len(own) < 2 or len(other) < 2:
        return image
    values, place = np.unique(own, return_inverse=True)
    # Where quantiles coincide, as with few grey values, the value goes to the mean of the other's.
    targets = np.bincount(place, weights=other) / np.bincount(place)
    table = np.interp(np.linspace(values[0], values[-1], _TABLE), values, targets).astype(np.float32)
    scale = (_TABLE - 1) / (values[-1] - values[0])
    position = np.clip((image - np.float32(values[0])) * np.float32(scale), 0, np.float32(_TABLE - 1))
    index = position.astype(np.int32)
    position -= index
    slope = np.append(np.diff(table), np.float32(0))
    return table.take(index) + slope.take(index) * position
