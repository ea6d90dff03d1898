"""The volumes of a case: read, and checked for belonging together and for the values of the label."""

from pathlib import Path

import numpy as np

from src.data.case import Case
from src.data.geometry import Geometry
from src.data.volume_files import read_volume
from src.errors import DataError

_ROUNDING = 1e-3  # of class numbers stored as floats, which a slope in the header may scale


def read_case(case: Case, classes: int | None = 2) -> tuple[np.ndarray, np.ndarray | None, Geometry]:
    """Read a case's volumes and check that they belong together.

    Args:
        case: its files.
        classes: C that the label has to have, background included; None for a label as it is stored.

    Returns:
        Image (x, y, z) as stored, label (x, y, z) uint8 of 0 .. C - 1 or None, and their grid.

    Raises:
        DataError: every problem of the case, each beginning with the case id.
    """
    problems: list[str] = []
    image, native = _try_read(case.image_path, problems)
    if image is not None and image.min() == image.max():
        problems.append(f"{case.image_path}: the image is constant (every voxel is {image.flat[0]}); "
                        "export it again, or leave the case out")
    label = None
    if case.label_path is not None:
        label, grid = _read_label(case.label_path, problems, classes)
        if native and grid and (differences := native.differences(grid)):
            problems.append(f"{case.label_path}: the label is not on the grid of {case.image_path}: "
                            f"{'; '.join(differences)}; resample the label to the image, or correct its header")
    if problems or image is None or native is None:
        raise DataError([f"{case.case_id}: {problem}" for problem in problems])
    return image, label, native


def find_label_problems(path: Path, classes: int | None = None) -> list[str]:
    """Say what is wrong with a label alone, for a case whose image is missing; empty when it is sound.

    Args:
        path: of the label.
        classes: as for `read_case`.
    """
    problems: list[str] = []
    _read_label(path, problems, classes)
    return problems


def label_value_problems(label: np.ndarray, classes: int) -> list[str]:
    """Say which values of a label are none of 0 .. C - 1; with two classes, 0 and any one value above 0.5 will do."""
    values = np.unique(label)
    listed = ", ".join(f"{value:g}" for value in values[:6]) + (", …" if len(values) > 6 else "")
    if classes > 2:
        numbers = np.rint(values)
        if np.abs(values - numbers).max() <= _ROUNDING and numbers[0] >= 0 and numbers[-1] < classes:
            return []
        return [f"label values are {{{listed}}}, expected whole numbers from 0 to {classes - 1}; correct the label, or "
                "set the recipe key 'classes'"]
    foreground = values[values != 0]
    if len(foreground) <= 1 and np.all(foreground > 0.5):
        return []
    return [f"label values are {{{listed}}}, expected 0 and one foreground value above 0.5; "
            "make the label binary, or set the recipe key 'classes' to the number of its classes"]


def _try_read(path: Path, problems: list[str]) -> tuple[np.ndarray | None, Geometry | None]:
    try:
        return read_volume(path)
    except DataError as error:
        problems += error.problems
        return None, None


def _read_label(path: Path, problems: list[str],
                classes: int | None) -> tuple[np.ndarray | None, Geometry | None]:
    stored, grid = _try_read(path, problems)
    if stored is None or classes is None:
        return stored, grid
    problems += [f"{path}: {problem}" for problem in label_value_problems(stored, classes)]
    return (stored > 0.5 if classes == 2 else np.rint(stored)).astype(np.uint8), grid
