"""Predictors whose answer is known, and volumes to give them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from src.data import Case
from src.data.data_manager import DataManager
from src.data.geometry import Geometry
from tests.data.helpers import ellipsoid, write_case

MANAGER = DataManager((1.5, 1.5, 1.5), (32, 32, 32))
THREE_CLASSES = DataManager((1.5, 1.5, 1.5), (32, 32, 32), classes=3)
GRID = Geometry((30, 28, 20), (1.0, 1.25, 1.5), (-12.5, 3.25, 40.0))


class FunctionPredictor:
    """Answers a block by `function`, and remembers the blocks."""

    path: Path | None = None

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]):
        self.function = function
        self.blocks: list[np.ndarray] = []

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        self.blocks.append(image)
        return self.function(image).astype(np.float32)


def bright() -> FunctionPredictor:
    """Foreground where the block is brighter than its mean over the volume, as the bright ellipsoids are."""
    return FunctionPredictor(lambda image: image > 1.0)


def nothing() -> FunctionPredictor:
    return FunctionPredictor(np.zeros_like)


def bright_halves() -> FunctionPredictor:
    """Of three classes: where `bright` says foreground, class 1 in the first half of the block along x, then 2."""
    def answer(image: np.ndarray) -> np.ndarray:
        inside = np.where(image > 1.0, 0.9, 0.1)
        first = np.zeros(image.shape, bool)
        first[:image.shape[0] // 2] = True
        return np.stack((1 - inside, np.where(first, inside, 0), np.where(first, 0, inside)))

    return FunctionPredictor(answer)


def not_a_number(voxels: int) -> FunctionPredictor:
    """Like `bright`, with NaN in the first `voxels` voxels (x fastest) of every block."""
    def answer(image: np.ndarray) -> np.ndarray:
        probability = np.asfortranarray(image > 1.0, np.float32)
        probability.ravel(order="K")[:voxels] = np.nan
        return probability

    return FunctionPredictor(answer)


def bright_volume(geometry: Geometry, radii_mm: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return image int16 and label uint8 (x, y, z): an ellipsoid of 1000 in surroundings of 100 to 130."""
    label = ellipsoid(geometry, radii_mm)
    noise = np.random.default_rng(3).integers(100, 131, geometry.size)
    return np.where(label, 1000, noise).astype(np.int16), label


def bright_case(folder: Path, case_id: str, radii_mm: tuple[float, float, float] = (8, 9, 10),
                geometry: Geometry = GRID, halves: bool = False) -> Case:
    """Write a bright ellipsoid and its label in the PROMISE12 layout.

    With `halves` the label has two classes, 1 in the first half along x and 2 in the second.
    """
    image, label = bright_volume(geometry, radii_mm)
    if halves:
        label[geometry.size[0] // 2:] *= 2
    return write_case(folder, case_id, image, label, geometry)
