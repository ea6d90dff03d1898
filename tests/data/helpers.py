"""Small generated volumes for the data tests."""

from pathlib import Path

import numpy as np

from src.data.case import Case
from src.data.geometry import Geometry
from src.data.volume_files import write_volume

# The oblique grid of a real T2 prostate series, 0.5 x 0.5 x 3 mm, tilted by 18 degrees about x.
OBLIQUE = Geometry(
    size=(384, 384, 19),
    spacing=(0.5, 0.5, 2.9999999941936877),
    origin=(-57.685436736032997, -82.363056885483005, -27.080757354715001),
    direction=(0.99999921014663307, 2.0033509996308235e-10, 0.0012568636004987512,
               -0.00039861049587699727, 0.94837644878114424, 0.31714657889836817,
               -0.0011919797745076966, -0.31714682939809807, 0.94837569970289259),
)


def ellipsoid(geometry: Geometry, radii_mm: tuple[float, float, float]) -> np.ndarray:
    """Make a (x, y, z) uint8 ellipsoid around the volume's centre, its axes along the grid's."""
    index = np.indices(geometry.size).reshape(3, -1).T
    offset = (index - (np.array(geometry.size) - 1) / 2) * np.array(geometry.spacing)
    inside = ((offset / np.array(radii_mm)) ** 2).sum(axis=1) <= 1
    return inside.reshape(geometry.size).astype(np.uint8)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice coefficient of two masks, written out so as not to lean on what other tests check."""
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def write_case(folder: Path, case_id: str, image: np.ndarray, label: np.ndarray, geometry: Geometry) -> Case:
    """Write image and label in the PROMISE12 layout."""
    case = Case(case_id, folder / "img" / f"{case_id}.mhd", folder / "gt" / f"{case_id}_segmentation.mhd")
    write_volume(case.image_path, image, geometry)
    write_volume(case.label_path, label, geometry)
    return case
