"""Single pictures to predict, which lie in a data set or outside of one."""

import logging
from collections.abc import Callable
from pathlib import Path

from src.data.case import Case
from src.data.picture_files import SUFFIXES
from src.errors import UserError

logger = logging.getLogger(__name__)


def list_pictures(source: Path, is_label: Callable[[Path], bool]) -> list[Path]:
    """Return the picture that `source` is, or those of a folder, sorted, without labels; a warning names what is left.

    Args:
        source: a file or a folder; folders in it are not searched.
        is_label: whether a file is none to predict from, by its name.

    Raises:
        UserError: nothing there, no picture in it, or only labels.
    """
    known = ", ".join(SUFFIXES)
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise UserError(f"--input {source}: no picture, expected one of {known}")
        if is_label(source):
            raise UserError(f"--input {source}: by its name a label or mask, and these are not predicted from")
        return [source]
    if not source.is_dir():
        raise UserError(f"--input {source}: no such file or folder; check the path")
    files = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES and not is_label(path)]
    if not pictures:
        raise UserError(f"--input {source}: no picture ({known}) to predict from in this folder; other folders in it "
                        "are not searched")
    if other := [path.name for path in files if path not in pictures]:
        logger.warning("no pictures to predict from, so left alone in %s: %s", source, ", ".join(other))
    return pictures


def distinct_cases(cases: list[Case]) -> tuple[list[Case], list[str]]:
    """Return the first case of each id, and a problem for every other: their masks would have one name."""
    found: dict[str, Case] = {}
    problems = []
    for case in cases:
        if case.case_id in found:
            problems.append(f"{case.image_path}: its mask would have the name of that of "
                            f"{found[case.case_id].image_path}; rename one of them")
        else:
            found[case.case_id] = case
    return list(found.values()), problems
