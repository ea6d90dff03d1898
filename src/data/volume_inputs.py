"""Volumes to predict, which lie outside of a data set and have no labels."""

import logging
from pathlib import Path

from src.data.case import VOLUME_SUFFIXES, Case, split_volume_name
from src.errors import UserError

logger = logging.getLogger(__name__)

LABEL_ENDING = "_segmentation"  # of the names of labels in the PROMISE12 layout


def find_inputs(source: Path) -> tuple[list[Case], list[str]]:
    """Return the volumes to predict, and a problem for each file that looks like a label.

    Their case ids are the file names, suffix included, so that two that differ in it alone are two cases, and a mask
    gets the suffix of its image.

    Args:
        source: a volume, or a folder of volumes; folders in it are not searched.

    Raises:
        UserError: nothing there, or no volume in it.
    """
    if source.is_file():
        if not split_volume_name(source.name)[1]:
            raise UserError(f"--input {source}: no volume, expected one of {', '.join(VOLUME_SUFFIXES)}")
        return [Case(source.name, source)], []
    if not source.is_dir():
        raise UserError(f"--input {source}: no such file or folder; check the path")
    files = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
    volumes = [path for path in files if split_volume_name(path.name)[1]]
    if not volumes:
        raise UserError(f"--input {source}: no volume ({', '.join(VOLUME_SUFFIXES)}) in this folder; folders in it "
                        "are not searched")
    other = [path.name for path in files if path not in volumes and path.suffix.lower() not in (".raw", ".zraw")]
    if other:
        logger.warning("not volumes, so left alone in %s: %s", source, ", ".join(other))
    labels = [path for path in volumes if split_volume_name(path.name)[0].endswith(LABEL_ENDING)]
    problems = [f"{path}: by its name ({LABEL_ENDING}) a label, and labels are not predicted from; move it elsewhere"
                for path in labels]
    return [Case(path.name, path) for path in volumes if path not in labels], problems
