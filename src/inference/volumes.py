"""Prediction of volumes without labels, from and to files."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from src.data import Case
from src.data.case import VOLUME_SUFFIXES, split_volume_name
from src.data.data_manager import DataManager
from src.data.prostate import label_name
from src.data.volume_files import write_volume
from src.errors import DataError, UserError
from src.inference.evaluate import load_native, segment
from src.inference.output import MASK_ENDING, REPORT_NAME, make_folder
from src.inference.postprocess import DEFAULT_POSTPROCESS, Postprocess
from src.inference.predictor import Predictor
from src.report.figures import overlay_png
from src.report.html import write_report

logger = logging.getLogger(__name__)

LABEL_VALUES = 8  # at most; an image has hundreds of different values


def find_volumes(source: Path) -> tuple[list[Path], list[str]]:
    """Return the volumes to predict and a problem for each file that looks like a label.

    Args:
        source: a volume, or a folder of volumes; folders in it are not searched.

    Raises:
        UserError: nothing there, or no volume in it.
    """
    if source.is_file():
        if not split_volume_name(source.name)[1]:
            raise UserError(f"--input {source}: no volume, expected one of {', '.join(VOLUME_SUFFIXES)}")
        return [source], []
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
    label_ending = split_volume_name(label_name("x.mhd"))[0][1:]
    labels = [path for path in volumes if split_volume_name(path.name)[0].endswith(label_ending)]
    problems = [f"{path}: by its name ({label_ending}) a label, and labels are not predicted from; move it elsewhere"
                for path in labels]
    return [path for path in volumes if path not in labels], problems


def predict_volumes(predictor: Predictor, manager: DataManager, source: Path, output: Path, recipe: dict[str, Any],
                    title: str, postprocess: Postprocess = DEFAULT_POSTPROCESS) -> list[Path]:
    """Predict every volume of `source` and write `STEM_test.SUFFIX` with its geometry, and a report of pictures.

    Args:
        predictor: of the network.
        manager: the preprocessing it was trained with.
        source: a volume, or a folder of volumes.
        output: folder, made where missing; not the one that the inputs lie in.
        recipe: for the report.
        title: what predicted, for the report.
        postprocess: from probability to mask.

    Returns:
        The masks written.

    Raises:
        UserError: nothing to predict, or `output` cannot be used.
        DataError: lists the files that were not predicted or whose mask could not be written, after all others were.
    """
    volumes, problems = find_volumes(source)
    inputs = source if source.is_dir() else source.parent
    if output.resolve() == inputs.resolve():
        raise UserError(f"--output {output}: is the folder of the inputs, where masks would be taken for inputs next "
                        "time; choose another folder")
    make_folder(output, "--output")
    protected = {path.resolve() for path in volumes}
    written: list[Path] = []
    pictures: dict[str, bytes] = {}
    for number, path in enumerate(volumes, 1):
        started = time.perf_counter()
        stem, suffix = split_volume_name(path.name)
        target = output / f"{stem}{MASK_ENDING}{suffix}"
        if target.resolve() in protected:
            problems.append(f"{path}: its mask {target} would overwrite an input; choose another --output")
            continue
        try:
            case = load_native(Case(path.name, path), manager)
        except DataError as error:
            problems += error.problems
            continue
        assert case.image is not None
        values = np.unique(case.image)
        if len(values) <= LABEL_VALUES:
            problems.append(f"{path}: holds {len(values)} different values only "
                            f"({', '.join(f'{value:g}' for value in values)}), so it is a label and no image; "
                            "move it elsewhere")
            continue
        try:
            mask = segment(predictor, manager, case, postprocess)
            write_volume(target, mask, case.native)
        except UserError as error:
            problems.append(str(error))
            continue
        except (OSError, RuntimeError) as error:
            problems.append(f"{path}: its mask {target} cannot be written ({_reason(error)}); check that nothing else "
                            "is there, the permissions and the free space")
            continue
        written.append(target)
        volume = _volume_text(mask, case.native.voxel_volume, manager.classes)
        logger.info("%s (%d of %d): %.1f s, foreground %s -> %s", path.name, number, len(volumes),
                    time.perf_counter() - started, volume, target)
        pictures[path.name] = overlay_png(case.image, mask, None, case.native.spacing, case.native.direction)
    if written:
        report = output / REPORT_NAME
        notes = [f"not predicted: {problem}" for problem in problems]
        try:
            write_report(report, f"Prediction by {title}", recipe, [], None, None, pictures, notes,
                         outlines=("prediction",))
            logger.info("report: %s", report)
        except OSError as error:
            problems.append(f"the report {report} cannot be written ({_reason(error)}); check that nothing else is "
                            "there, the permissions and the free space")
        logger.info("%d of %d volumes predicted", len(written), len(volumes))
    if problems:
        raise DataError(problems)
    return written


def _volume_text(mask: np.ndarray, voxel_volume: float, classes: int) -> str:
    """Return the volume of a mask (X, Y, Z) in words, in ml, and of each class where there are several."""
    volumes = [np.count_nonzero(mask == number) * voxel_volume / 1000 for number in range(1, classes)]
    parts = ", ".join(f"class {number}: {volume:.2f}" for number, volume in enumerate(volumes, 1))
    return f"{sum(volumes):.2f} ml" + (f" ({parts})" if classes > 2 else "")


def _reason(error: Exception) -> str:
    """Return why a file could not be written, in one line; SimpleITK says it in the last of several."""
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
