"""The batch that every contender of cpu_vs_monai.py works on, and the optimiser's settings."""

import numpy as np

LEARNING_RATE = 0.0005
WEIGHT_DECAY = 1e-4


def fixed_batch(size: tuple[int, ...], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 1, X, Y, Z) float32 in [0, 1), random but always the same, and labels (N, X, Y, Z) int32.

    The label is a ball of a third of the volume's edges: an organ's share of it, some 15 %.
    """
    image = np.random.default_rng(20161014).random((batch, 1, *size), dtype=np.float32)
    grid = np.meshgrid(*(np.linspace(-1, 1, edge, dtype=np.float32) for edge in size), indexing="ij")
    ball = (sum(axis * axis for axis in grid) < 0.45).astype(np.int32)
    return image, np.repeat(ball[None], batch, axis=0)
