"""ISBI 2012 electron microscopy: slices with cells (255) and the membranes between them (0).

Either pictures in pairs, `image/07.png` and `label/07.png`, or TIFF stacks: page 7 of `train-volume.tif` and of
`train-labels.tif`. Names in split files are `07.png`, or `train-volume.tif:07` for a page, from 00 on. Every slice is a
case of its own. Arganda-Carreras et al., Frontiers in Neuroanatomy 9, 2015, doi:10.3389/fnana.2015.00142.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.data.case import Case
from src.data.layout import Layout, all_found
from src.data.picture_files import SUFFIXES, PictureReader, mask_problems, page_count
from src.data.picture_inputs import distinct_cases, list_pictures
from src.data.slices import SliceManager
from src.errors import DataError, UserError

logger = logging.getLogger(__name__)

CHANNELS = 1
IMAGE_FOLDER, LABEL_FOLDER = "image", "label"
STACK = "train-volume.tif"

_PAGE = re.compile(r"(?P<file>.+\.tiff?):(?P<page>\d+)", re.IGNORECASE)
_VOLUME, _LABELS = "-volume", "-labels"  # endings of the stems of stacks


class EmManager(SliceManager):
    """Grey slices, both ways: resized and z-scored, each by itself."""

    channels = CHANNELS

    def read_pictures(self, case: Case) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Read and check a slice; see `SliceManager.read_pictures`.

        Raises:
            DataError: a file is damaged or in colour, or the label does not fit.
        """
        reader = PictureReader()
        picture = reader.picture(case.image_path, case.page)
        if picture is not None and np.any(picture != picture[:1]):
            reader.problems.append(f"{case.image_path}: a picture in colours, expected grey; convert it")
        label = reader.mask(case.label_path, picture, case.page) if case.label_path else None
        if reader.problems or picture is None:
            raise DataError(reader.problems)
        return picture[:1, ..., np.newaxis], None if label is None else label[..., np.newaxis], None


LAYOUT = Layout(IMAGE_FOLDER, LABEL_FOLDER, lambda name: [name, *(Path(name).stem + suffix for suffix in SUFFIXES)],
                SUFFIXES, mask_problems, "picture")


def all_names(data_path: Path) -> list[str]:
    """List the slices that come with labels, sorted: those of `image/`, or without it the pages of `train-volume.tif`.

    Raises:
        UserError: there are none.
        DataError: the stack cannot be read.
    """
    data_path = Path(data_path)
    stack = data_path / STACK
    if (data_path / IMAGE_FOLDER).is_dir():
        if stack.is_file():
            logger.warning("%s is left alone: the slices are taken from %s/ beside it", stack, IMAGE_FOLDER)
        return LAYOUT.all_names(data_path)
    if stack.is_file():
        return [f"{STACK}:{page:02d}" for page in range(page_count(stack))]
    remedy = f"give the folder that holds {IMAGE_FOLDER}/ and {LABEL_FOLDER}/, or {STACK} and train-labels.tif"
    if not data_path.is_dir():
        raise UserError(f"data folder {data_path} is not there; {remedy}")
    if inner := sorted(path for path in data_path.iterdir() if path.is_dir() and is_here(path)):
        remedy = f"give {' or '.join(map(str, inner))}"
    raise UserError(f"data folder {data_path} has neither {IMAGE_FOLDER}/ nor {STACK} in it; {remedy}")


def scan_cases(data_path: Path, names: Sequence[str], need_labels: bool = True,
               classes: int | None = None) -> tuple[list[Case], list[str]]:
    """Look up the files of the named slices; see `Layout.scan_cases`."""
    data_path = Path(data_path)
    pages = {name: match for name in names if (match := _PAGE.fullmatch(name))}
    single = [name for name in names if name not in pages]
    found: dict[str, Case] = {}
    problems: list[str] = []
    if single or not data_path.is_dir():
        cases, problems = LAYOUT.scan_cases(data_path, single, need_labels, classes)
        found = {case.image_path.name: case for case in cases}
    counts: dict[Path, int] = {}
    for name, match in pages.items():
        image, page = data_path / match["file"], int(match["page"])
        own_id = _page_id(image, page)
        label = _labels_of(image)
        if any(case.case_id == own_id for case in found.values()):
            problems.append(f"{own_id}: named twice, as {name} the second time; name each slice once")
            continue
        missing = [problem for path, what in ((image, "stack"), (label, "stack of labels"))
                   if path == image or need_labels or path.is_file()
                   for problem in _page_problems(path, what, page, counts)]
        problems += [f"{own_id}: {problem}" for problem in missing]
        if not missing:
            found[name] = Case(own_id, image, label if label.is_file() else None, page=page)
    return [found[name] for name in dict.fromkeys(names) if name in found], problems


def find_cases(data_path: Path, names: Sequence[str], need_labels: bool = True) -> list[Case]:
    """Look up the files of the named slices, all of which have to be there; see `Layout.find_cases`.

    Raises:
        DataError: with the problems that `scan_cases` finds.
    """
    return all_found(scan_cases(data_path, names, need_labels))


def find_inputs(source: Path) -> tuple[list[Case], list[str]]:
    """Return the slices to predict: a picture, all pages of a stack, those of a folder, or of a data set's `image/`.

    Raises:
        UserError: there are none.
    """
    if source.is_dir() and (source / IMAGE_FOLDER).is_dir():
        source = source / IMAGE_FOLDER
    cases, problems = [], []
    for path in list_pictures(source, lambda path: path.stem.endswith(_LABELS)):
        try:
            count = page_count(path)
        except DataError as error:
            problems += [f"{path.stem}: {problem}" for problem in error.problems]
            continue
        if count == 1:
            cases.append(Case(path.stem, path))
        else:
            cases += [Case(_page_id(path, page), path, page=page) for page in range(count)]
    cases, same = distinct_cases(cases)
    return cases, problems + same


def is_here(data_path: Path) -> bool:
    """Return whether a folder has this layout."""
    return (Path(data_path) / IMAGE_FOLDER).is_dir() or (Path(data_path) / STACK).is_file()


def case_id(name: str) -> str:
    """Return the case id of a name in a split file: `07`, or `train-volume_07` for a page; "" for no such name."""
    match = _PAGE.fullmatch(name)
    return _page_id(Path(match["file"]), int(match["page"])) if match else LAYOUT.case_id(name)


def _page_id(stack: Path, page: int) -> str:
    return f"{stack.stem}_{page:02d}"


def _labels_of(stack: Path) -> Path:
    stem = stack.stem.removesuffix(_VOLUME) if stack.stem.endswith(_VOLUME) else stack.stem
    return stack.with_name(f"{stem}{_LABELS}{stack.suffix}")


def _page_problems(path: Path, what: str, page: int, counts: dict[Path, int]) -> list[str]:
    """Say why a page of a stack cannot be had; `counts` keeps the numbers of pages that are known already."""
    if not path.is_file():
        return [f"{what} {path} is missing; add it, or correct the split file"]
    try:
        counts.setdefault(path, -1)
        if counts[path] < 0:
            counts[path] = page_count(path)
    except DataError as error:
        return error.problems
    if page >= counts[path]:
        return [f"{path}: no page {page}, the last of {counts[path]} pages is {counts[path] - 1}; correct the split "
                "file"]
    return []
