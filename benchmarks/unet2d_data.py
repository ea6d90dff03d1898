"""The batch that every contender of unet2d.py works on, and the settings that they share."""

import numpy as np

CHANNELS = 3
BASE = 32
LEARNING_RATE = 1e-4


def fixed_pictures(size: tuple[int, ...], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (N, 3, H, W) and labels (N, H, W), float32, random but always the same; a disc is foreground."""
    image = np.random.default_rng(20150518).standard_normal((batch, CHANNELS, *size), dtype=np.float32)
    y, x = np.meshgrid(*(np.linspace(-1, 1, edge, dtype=np.float32) for edge in size), indexing="ij")
    disc = (x * x + y * y < 0.2).astype(np.float32)
    return image, np.repeat(disc[None], batch, axis=0)
