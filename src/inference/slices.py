"""Prediction of a block by a network of pictures: slice after slice."""

from pathlib import Path
from typing import Protocol

import numpy as np


class PicturePredictor(Protocol):
    """Whatever turns pictures into probabilities."""

    @property
    def path(self) -> Path | None:
        """The file that the network came from, as in `predictor.Predictor`."""
        ...

    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        """Return the foreground's probability (N, H, W) of pictures (N, C, H, W), float32 both."""
        ...


class SlicePredictor:
    """A predictor of blocks (C, X, Y, Z), made of one of pictures (N, C, H, W): X is W, Y is H, Z are the pictures.

    All batches are of one size, the last one filled up with copies of its last slice, so that a graph compiles once.
    That size is `batch`, or where the network takes any the number of slices of the first block, if that is less: of
    single pictures nothing is predicted in vain.

    Args:
        predictor: of pictures.
        batch: pictures at a time, at least 1.
        fixed: the predictor takes batches of exactly this size, as an exported model does.

    Raises:
        ValueError: `batch` is below 1.
    """

    def __init__(self, predictor: PicturePredictor, batch: int, fixed: bool = False):
        if batch < 1:
            raise ValueError(f"batch {batch}: expected one picture at least")
        self.predictor = predictor
        self.batch = batch
        self.fixed = fixed

    @property
    def path(self) -> Path | None:
        return self.predictor.path

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        """Return the probability (X, Y, Z) float32 of a block (C, X, Y, Z)."""
        pictures = block_pictures(image)
        if not self.fixed:
            self.batch, self.fixed = min(self.batch, len(pictures)), True
        answers = []
        for start in range(0, len(pictures), self.batch):
            part = pictures[start:start + self.batch]
            missing = self.batch - len(part)
            if missing:
                part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            answers.append(self.predictor.predict_batch(np.ascontiguousarray(part))[:self.batch - missing])
        return np.ascontiguousarray(np.concatenate(answers).transpose(2, 1, 0))


def block_pictures(image: np.ndarray) -> np.ndarray:
    """Return the slices (Z, C, Y, X) of a block (C, X, Y, Z) as the network sees them, (N, C, H, W)."""
    return image.transpose(3, 0, 2, 1)
