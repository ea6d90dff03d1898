"""Prediction of volumes larger than the network's block: overlapping windows, blended with Gaussian weights.

Window places and the Gaussian are nnU-Net's (F. Isensee et al., "nnU-Net: a self-configuring method for deep
learning-based biomedical image segmentation", Nature Methods 18, 2021).
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.inference.predictor import Predictor

SIGMA = 1 / 8  # of the window's edge
# Least weight along an axis, its maximum being 1, so that no voxel that only corners of windows cover loses its digits.
FLOOR = 1e-3


def describe(window: Sequence[int], overlap: float) -> dict[str, Any]:
    """Return what another program needs to blend windows in the same way, as plain JSON types."""
    return {"size": list(window), "overlap": overlap, "places": "evenly spread from border to border, rounded",
            "weights": "Gaussian, the product over the axes", "sigma_of_edge": SIGMA, "least_weight_of_axis": FLOOR}


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Return the first voxels of windows that cover an axis, the first at 0 and the last flush with the end.

    Neighbours are at most `window` * (1 - `overlap`) apart (one voxel at least), and evenly spread up to rounding.

    Args:
        length: of the axis, at least `window`; voxels, as is `window`.
        overlap: share of a window that its neighbour covers too, 0 or more and below 1.
    """
    step = max(window * (1 - overlap), 1.0)
    # 1e-9: an overlap of 0.9 and 10 voxels make a step of 0.9999…, which needs no further window.
    intervals = math.ceil((length - window) / step - 1e-9)
    return [round(index * (length - window) / intervals) for index in range(intervals)] + [length - window]


def gaussian(window: int) -> np.ndarray:
    """Return the weights (window,) float64 along an axis: 1 in the middle, `SIGMA` * window wide, `FLOOR` at least."""
    offset = np.arange(window) - (window - 1) / 2
    return np.maximum(np.exp(-0.5 * (offset / (SIGMA * window)) ** 2), FLOOR)


def axis_weights(length: int, window: int, overlap: float) -> list[tuple[slice, np.ndarray]]:
    """Return place and weights (window,) float32 of each window along an axis; over each voxel they sum to 1."""
    places = [slice(start, start + window) for start in window_starts(length, window, overlap)]
    weights = gaussian(window)
    total = np.zeros(length)
    for place in places:
        total[place] += weights
    return [(place, (weights / total[place]).astype(np.float32)) for place in places]


class WindowPredictor:
    """A predictor of blocks of any size, made of one of blocks of the size `window`.

    A voxel's probability is the mean of its windows' answers, weighted by a Gaussian around each window's centre, since
    a network sees least at the border of what it is given. Windows lie on a grid and the Gaussian is a product over the
    axes, and so is the sum of weights over the windows: divided by it beforehand, axis by axis, the weighted answers
    simply add up. So the memory is that of the sum and of one window, however many windows there are.

    A block of exactly the window's size is predicted as it is. A smaller one is padded, evenly on both sides, with its
    lowest value, which is what preprocessing gives voxels outside the volume; the answer is cut back.

    Args:
        predictor: of blocks (X, Y, Z) or (channels, X, Y, Z) of the window's size.
        window: voxels (x, y, z).
        overlap: share of a window's edge that its neighbour covers too, 0 or more and below 1.

    Raises:
        ValueError: window or overlap make no sense.
    """

    def __init__(self, predictor: Predictor, window: Sequence[int], overlap: float = 0.5):
        if len(window) != 3 or min(window) < 1 or not 0 <= overlap < 1:
            raise ValueError(f"window {window} and overlap {overlap}: expected three sizes above 0 and a share below 1")
        self.predictor = predictor
        self.window = tuple(int(count) for count in window)
        self.overlap = float(overlap)

    @property
    def path(self) -> Path | None:
        return self.predictor.path

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        """Return the probability (X, Y, Z), or (C, X, Y, Z), float32 of a block (…, X, Y, Z) of any size."""
        size = image.shape[-3:]
        if size == self.window:
            return self.predictor.predict_block(image)
        missing = [max(edge - count, 0) for edge, count in zip(self.window, size, strict=True)]
        if not any(missing):
            return self._blend(image)
        margins = [(count // 2, count - count // 2) for count in missing]
        padded = np.pad(image, [(0, 0)] * (image.ndim - 3) + margins, constant_values=image.min())
        x, y, z = (slice(before, before + count) for (before, _), count in zip(margins, size, strict=True))
        return np.ascontiguousarray(self.predict_block(padded)[..., x, y, z])

    def _blend(self, image: np.ndarray) -> np.ndarray:
        axes = [axis_weights(count, edge, self.overlap)
                for count, edge in zip(image.shape[-3:], self.window, strict=True)]
        total: np.ndarray | None = None
        for (x, of_x), (y, of_y), (z, of_z) in itertools.product(*axes):
            answer = self.predictor.predict_block(np.ascontiguousarray(image[..., x, y, z]))
            if total is None:
                total = np.zeros((*answer.shape[:-3], *image.shape[-3:]), np.float32)
            weighted = answer * of_x[:, None, None]
            weighted *= of_y[:, None]
            weighted *= of_z
            total[..., x, y, z] += weighted
            del answer, weighted  # the next window's answer would otherwise be made beside this one's
        assert total is not None  # an axis has one window at least
        return total
