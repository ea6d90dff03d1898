"""Data sets in the PROMISE12 layout: `img/Case00.mhd` and `gt/Case00_segmentation.mhd` below the data folder.

PROMISE12: Litjens et al., Medical Image Analysis 18(2), 2014, doi:10.1016/j.media.2013.12.002.
"""

from collections.abc import Sequence
from pathlib import Path

from src.data.case import VOLUME_SUFFIXES, Case, split_volume_name
from src.data.data_manager import find_label_problems
from src.errors import DataError, UserError

IMAGE_FOLDER = "img"
LABEL_FOLDER = "gt"


def all_names(data_path: Path) -> list[str]:
    """List the image file names of a data folder, sorted.

    Raises:
        UserError: the folder has no images.
    """
    folder = _image_folder(Path(data_path))
    names = sorted(path.name for path in folder.iterdir()
                   if path.is_file() and split_volume_name(path.name)[1] and not path.name.startswith("."))
    if not names:
        raise UserError(f"no volume ({', '.join(VOLUME_SUFFIXES)}) in {folder}; put the case images there")
    return names


def label_name(image_name: str) -> str:
    """Give the ground truth's file name: `Case00_segmentation.mhd` for `Case00.mhd`."""
    stem, suffix = split_volume_name(image_name)
    return f"{stem}_segmentation{suffix}"


def find_cases(data_path: Path, names: Sequence[str], need_labels: bool = True) -> list[Case]:
    """Look up the files of the named cases, all of which have to be there.

    Args:
        data_path, names, need_labels: as `scan_cases`.

    Returns:
        One case per name, in the order of `names`.

    Raises:
        UserError: the data folder itself is wrong.
        DataError: with the problems that `scan_cases` finds.
    """
    cases, problems = scan_cases(data_path, names, need_labels)
    if problems:
        raise DataError(problems)
    return cases


def scan_cases(data_path: Path, names: Sequence[str], need_labels: bool = True) -> tuple[list[Case], list[str]]:
    """Look up the files of the named cases, and say which are not as they should be.

    Args:
        data_path: folder that holds `img/` and `gt/`.
        names: image file names, as in a split file.
        need_labels: whether a case without ground truth is a problem; where it is not, its `label_path` is None.

    Returns:
        The cases whose image is there, in the order of `names`, and one sentence for every name that is no volume's,
        occurs twice, or lacks a file. So that nothing stays hidden behind a missing half, a case that lacks its ground
        truth is returned without, for its image to be checked; and a ground truth that lacks its image is checked here.

    Raises:
        UserError: the data folder itself is wrong.
    """
    data_path = Path(data_path)
    folder = _image_folder(data_path)
    problems: list[str] = []
    cases: dict[str, Case] = {}
    for name in names:
        case_id, suffix = split_volume_name(name)
        image_path, label_path = folder / name, data_path / LABEL_FOLDER / label_name(name)
        if case_id in cases:
            problems.append(f"{case_id}: named twice, as {cases[case_id].image_path.name} and {name}; "
                            "name each case once")
            continue
        if not suffix:
            problems.append(f"{name}: not a volume's file name, expected a suffix of {', '.join(VOLUME_SUFFIXES)}; "
                            "correct the split file")
            continue
        if not image_path.is_file():
            problems.append(f"{case_id}: image {image_path} is missing; correct the split file or add the case")
        labelled = label_path.is_file()
        if need_labels and not labelled:
            problems.append(f"{case_id}: ground truth {label_path} is missing; add it, "
                            "or take the case out of the split file")
        if image_path.is_file():
            cases[case_id] = Case(case_id, image_path, label_path if labelled else None)
        elif labelled:
            problems += [f"{case_id}: {problem}" for problem in find_label_problems(label_path)]
    return list(cases.values()), problems


def _image_folder(data_path: Path) -> Path:
    folder = data_path / IMAGE_FOLDER
    if folder.is_dir():
        return folder
    remedy = f"give the folder that holds {IMAGE_FOLDER}/ and {LABEL_FOLDER}/"
    if not data_path.is_dir():
        raise UserError(f"data folder {data_path} is not there; {remedy}")
    inner = sorted(path.parent for path in data_path.glob(f"*/{IMAGE_FOLDER}") if path.is_dir())
    if inner:
        remedy = f"give {' or '.join(map(str, inner))}"
    raise UserError(f"data folder {data_path} has no {IMAGE_FOLDER}/ in it; {remedy}")
