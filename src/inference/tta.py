"""Test-time augmentation: the mean over mirrored copies of what is predicted."""

import itertools
from pathlib import Path

import numpy as np

from src.inference.predictor import Predictor

_AXIS = {"x": -3, "y": -2, "z": -1}  # of arrays (…, X, Y, Z)


class MirrorPredictor:
    """The mean of a predictor's answers to a block and to its mirror images, each mirrored back.

    Of k axes there are 2^k copies, which take 2^k times as long; the memory is that of the sum and of one answer.

    Args:
        predictor: of blocks (…, X, Y, Z).
        axes: any of x, y and z, such as `xy`.

    Raises:
        ValueError: no axis, an unknown one, or one given twice.
    """

    def __init__(self, predictor: Predictor, axes: str):
        if not axes or len(set(axes)) != len(axes) or not set(axes) <= set(_AXIS):
            raise ValueError(f"mirror axes {axes!r}: expected any of x, y and z, each once")
        self.predictor = predictor
        self.flips = [tuple(_AXIS[name] for name in chosen)
                      for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)]

    @property
    def path(self) -> Path | None:
        return self.predictor.path

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        """Return the probability (X, Y, Z), or (C, X, Y, Z), float32 of a block (…, X, Y, Z)."""
        total: np.ndarray | None = None
        for axes in self.flips:
            # Predictors take plain arrays, and a mirrored view has negative strides.
            answer = np.flip(self.predictor.predict_block(np.ascontiguousarray(np.flip(image, axes))), axes)
            if total is None:
                total = np.array(answer, np.float32)
            else:
                total += answer
            del answer
        assert total is not None  # the first copy is the block itself
        total /= np.float32(len(self.flips))
        return total
