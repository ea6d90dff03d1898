"""Predictors whose answer is known, and volumes to give them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from src.data import Case
from src.data.data_manager import DataManager
from src.data.geometry import Geometry
from tests.data.helpers import ellipsoid, write_case

MANAGER = DataManager((1.5, 1.5, 1.5), (32, 32, 32))
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
                geometry: Geometry = GRID) -> Case:
    """Write a bright ellipsoid and its label in the PROMISE12 layout."""
    return write_case(folder, case_id, *bright_volume(geometry, radii_mm), geometry)
