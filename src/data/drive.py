"""DRIVE, vessels of the retina: `training/` and `test/` with `images/`, `1st_manual/` and `mask/`.

`images/21_training.tif` is in colour, `1st_manual/21_manual1.gif` has its vessels, and `mask/21_training_mask.gif` the
camera's field of view, outside of which nothing counts. Names in split files are those of the images. Staal et al.,
IEEE Transactions on Medical Imaging 23(4), 2004, doi:10.1109/TMI.2004.825627.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from src.data.case import Case
from src.data.layout import Layout, all_found
from src.data.picture_files import SUFFIXES, PictureReader, luma, mask_problems, read_mask, read_picture
from src.data.picture_inputs import distinct_cases, list_pictures
from src.data.slices import SliceManager
from src.errors import DataError, UserError

logger = logging.getLogger(__name__)

CHANNELS = 1
IMAGE_FOLDER, LABEL_FOLDER, FIELD_FOLDER = "images", "1st_manual", "mask"
TRAINING, TEST = "training", "test"
FIELD_SHARE = 0.1  # of the bright pixels' grey, above which one is taken to be in the field of view

_LABEL_ENDINGS = ("_manual1", "_manual2", "_mask")


class DriveManager(SliceManager):
    """Pictures in grey, both ways: resized and z-scored inside the field of view."""

    channels = CHANNELS

    def read_pictures(self, case: Case) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Read and check a picture; see `SliceManager.read_pictures`.

        Raises:
            DataError: a file is damaged, or label or field of view do not fit the picture.
        """
        reader = PictureReader()
        picture = reader.picture(case.image_path)
        label = reader.mask(case.label_path, picture) if case.label_path else None
        field = reader.mask(case.region_path, picture) if case.region_path else None
        if field is not None and not field.any():
            reader.problems.append(f"{case.region_path}: the field of view is empty; fetch or save it again")
        if reader.problems or picture is None:
            raise DataError(reader.problems)
        grey = luma(picture)
        inside = estimate_field(grey) if field is None else field.astype(bool)
        return (grey[np.newaxis, ..., np.newaxis], None if label is None else label[..., np.newaxis],
                inside[..., np.newaxis])

    def region(self, case: Case) -> np.ndarray | None:
        """Return the field of view (x, y, 1) bool: of its file, or as `estimate_field` sees it.

        Raises:
            DataError: the file is damaged.
        """
        if case.region_path is not None:
            return read_mask(case.region_path).astype(bool)[..., np.newaxis]
        return estimate_field(luma(read_picture(case.image_path)))[..., np.newaxis]


def estimate_field(grey: np.ndarray) -> np.ndarray:
    """Return where a picture (x, y) is not dark, (x, y) bool: for pictures that come without field of view.

    That is the largest connected part above a tenth of the 99th percentile, without holes; everything where a picture
    is black.
    """
    parts, count = ndimage.label(grey > FIELD_SHARE * np.percentile(grey, 99))
    if not count:
        return np.ones(grey.shape, bool)
    largest = 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return np.asarray(ndimage.binary_fill_holes(parts == largest))


def label_names(name: str) -> list[str]:
    """Give the names of an image's ground truth: `21_manual1.gif` for `21_training.tif`."""
    return [f"{Path(name).stem.partition('_')[0]}_manual1{suffix}" for suffix in (".gif", ".png", ".tif")]


LAYOUT = Layout(IMAGE_FOLDER, LABEL_FOLDER, label_names, SUFFIXES, mask_problems, "picture")
case_id = LAYOUT.case_id


def all_names(data_path: Path) -> list[str]:
    """List the images that come with ground truth, sorted: of both parts, or of the one that `data_path` is.

    A part without `1st_manual/`, as the test pictures are handed out by some, is left out.

    Raises:
        UserError: there are none.
    """
    parts = _parts(data_path)
    labelled = [part for part in parts if (part / LABEL_FOLDER).is_dir()]
    if not labelled:
        raise UserError(f"data folder {data_path} has no {LABEL_FOLDER}/ in {' or '.join(map(str, parts))}; put the "
                        "ground truth there")
    return sorted(name for part in labelled for name in LAYOUT.all_names(part))


def own_division(data_path: Path) -> tuple[list[str], list[str]]:
    """Return the names of training and validation in the data set's own division: its test pictures validate.

    Raises:
        UserError: one of the two parts is not there, or the test pictures have no ground truth.
    """
    parts = [Path(data_path) / TRAINING, Path(data_path) / TEST]
    for part in parts:
        for folder in (IMAGE_FOLDER, LABEL_FOLDER):
            if not (part / folder).is_dir():
                raise UserError(f"{part} has no {folder}/, which DRIVE's own division needs; add it, or draw the "
                                "split at random")
    training, test = (LAYOUT.all_names(part) for part in parts)
    return training, test


def scan_cases(data_path: Path, names: Sequence[str], need_labels: bool = True,
               classes: int | None = None) -> tuple[list[Case], list[str]]:
    """Look up the files of the named images in both parts; see `Layout.scan_cases`.

    A missing field of view is a problem as well.
    """
    parts = _parts(data_path)
    places = [next((part for part in parts if (part / IMAGE_FOLDER / name).is_file()),
                   parts[-1] if f"_{TEST}." in name else parts[0]) for name in names]
    found: dict[str, Case] = {}
    problems: list[str] = []
    for part in parts:
        own = [name for name, place in zip(names, places, strict=True) if place == part]
        cases, missing = LAYOUT.scan_cases(part, own, need_labels, classes)
        problems += missing
        for case in cases:
            fields = _field_paths(case.image_path)
            field = next((path for path in fields if path.is_file()), None)
            if field is None:
                problems.append(f"{case.case_id}: field of view {fields[0]} is missing; add it, or take the picture "
                                "out of the split file")
            found[case.image_path.name] = replace(case, region_path=field)
    return [found[name] for name in dict.fromkeys(names) if name in found], problems


def find_cases(data_path: Path, names: Sequence[str], need_labels: bool = True) -> list[Case]:
    """Look up the files of the named images, all of which have to be there; see `Layout.find_cases`.

    Raises:
        DataError: with the problems that `scan_cases` finds.
    """
    return all_found(scan_cases(data_path, names, need_labels))


def find_inputs(source: Path) -> tuple[list[Case], list[str]]:
    """Return the pictures to predict: one, those of a folder, of a part of the data set, or of both parts.

    A field of view in `mask/` beside their folder is used; else it is estimated, and a warning says so.

    Raises:
        UserError: there are none.
    """
    folders = [source]
    if source.is_dir() and _find_parts(source):
        folders = [part / IMAGE_FOLDER for part in _find_parts(source)]
    cases = []
    for folder in folders:
        for path in list_pictures(folder, lambda path: path.stem.endswith(_LABEL_ENDINGS)):
            field = next((other for other in _field_paths(path) if other.is_file()), None)
            cases.append(Case(path.stem, path, None, field))
    if estimated := [case.image_path.name for case in cases if case.region_path is None]:
        logger.warning("no field of view in %s/ beside the pictures, so it is taken to be where they are not dark: %s",
                       FIELD_FOLDER, ", ".join(estimated))
    return distinct_cases(cases)


def is_here(data_path: Path) -> bool:
    """Return whether a folder has this layout."""
    return bool(_find_parts(Path(data_path)))


def _field_paths(image: Path) -> list[Path]:
    """Return the files that an image's field of view may have, `21_training_mask.gif` for one; the first is usual."""
    return [image.parent.parent / FIELD_FOLDER / f"{image.stem}_mask{suffix}" for suffix in (".gif", ".png", ".tif")]


def _find_parts(data_path: Path) -> list[Path]:
    own = [data_path] if (data_path / IMAGE_FOLDER).is_dir() else []
    return own or [data_path / part for part in (TRAINING, TEST) if (data_path / part / IMAGE_FOLDER).is_dir()]


def _parts(data_path: Path) -> list[Path]:
    data_path = Path(data_path)
    if parts := _find_parts(data_path):
        return parts
    remedy = f"give the folder that holds {TRAINING}/ and {TEST}/, or one of these"
    if not data_path.is_dir():
        raise UserError(f"data folder {data_path} is not there; {remedy}")
    if inner := sorted(path for path in data_path.iterdir() if path.is_dir() and _find_parts(path)):
        remedy = f"give {' or '.join(map(str, inner))}"
    raise UserError(f"data folder {data_path} has no {TRAINING}/{IMAGE_FOLDER}/ in it; {remedy}")
