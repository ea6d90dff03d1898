"""Prediction of volumes and pictures without labels, from and to files."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.data import get_task
from src.data.data_manager import DataManager
from src.errors import DataError, UserError
from src.inference.evaluate import NativeCase, load_native, segment
from src.inference.output import REPORT_NAME, make_folder
from src.inference.postprocess import DEFAULT_POSTPROCESS, Postprocess
from src.inference.predictor import Predictor
from src.recipe_rules import is_2d
from src.report.figures import overlay_png
from src.report.html import write_report

logger = logging.getLogger(__name__)

LABEL_VALUES = 8  # at most; an image has hundreds of different values


def predict_volumes(predictor: Predictor, manager: DataManager, source: Path, output: Path, recipe: Mapping[str, Any],
                    title: str, postprocess: Postprocess = DEFAULT_POSTPROCESS) -> list[Path]:
    """Predict every case of `source` and write its mask and a report of pictures.

    Masks of volumes are `STEM_test.SUFFIX` with the image's geometry, those of pictures as the manager's `write_mask`
    says.

    Args:
        predictor: of the network.
        manager: the preprocessing it was trained with.
        source: what `find_inputs` of the recipe's `task` takes, such as a volume, or a folder of volumes.
        output: folder, made where missing; not one that inputs lie in.
        recipe: for its `task`, and for the report.
        title: what predicted, for the report.
        postprocess: from probability to mask.

    Returns:
        The masks written.

    Raises:
        UserError: nothing to predict, or `output` cannot be used.
        DataError: lists the files that were not predicted or whose mask could not be written, after all others were.
    """
    cases, problems = get_task(recipe["task"]).find_inputs(source)
    inputs = {(case.image_path if case.image_path.is_dir() else case.image_path.parent).resolve() for case in cases}
    masks = {case: manager.mask_paths(output, case) for case in cases}
    if (inputs | {source.resolve()}) & {path.parent.resolve() for paths in masks.values() for path in paths}:
        raise UserError(f"--output {output}: is the folder of the inputs, where masks would be taken for inputs next "
                        "time; choose another folder")
    make_folder(output, "--output")
    protected = {case.image_path.resolve() for case in cases}
    written: list[Path] = []
    pictures: dict[str, bytes] = {}
    for number, case in enumerate(cases, 1):
        started = time.perf_counter()
        targets = masks[case]
        if any(target.resolve() in protected for target in targets):
            problems.append(f"{case.image_path}: its mask {targets[0]} would overwrite an input; choose another "
                            "--output")
            continue
        try:
            loaded = load_native(case, manager)
        except DataError as error:
            problems += error.problems
            continue
        assert loaded.image is not None
        if problem := label_problem(loaded.image):
            problems.append(f"{case.image_path}: {problem}; move it elsewhere")
            continue
        try:
            mask = segment(predictor, manager, loaded, postprocess)
            written += manager.write_mask(output, case, mask, loaded.native)
        except UserError as error:
            problems.append(str(error))
            continue
        except (OSError, RuntimeError) as error:
            problems.append(f"{case.image_path}: its mask {targets[0]} cannot be written ({_reason(error)}); check "
                            "that nothing else is there, the permissions and the free space")
            continue
        place = targets[0] if len(targets) == 1 else targets[0].parent
        logger.info("%s (%d of %d): %.1f s, foreground %s -> %s", case.case_id, number, len(cases),
                    time.perf_counter() - started, _amount(mask, loaded, manager.classes, is_2d(recipe)), place)
        native = loaded.native
        pictures[case.case_id] = overlay_png(loaded.image, mask, None, native.spacing, native.direction)
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
        logger.info("%d of %d %s predicted", len(pictures), len(cases), "cases" if is_2d(recipe) else "volumes")
    if problems:
        raise DataError(problems)
    return written


def label_problem(image: np.ndarray) -> str:
    """Say why voxels (x, y, z) are those of a label and not of an image; "" where they are not."""
    values = np.unique(image)
    if len(values) > LABEL_VALUES:
        return ""
    return (f"holds {len(values)} different values only ({', '.join(f'{value:g}' for value in values)}), so it is a "
            "label and no image")


def _amount(mask: np.ndarray, case: NativeCase, classes: int, share: bool) -> str:
    """Return how much of a case is foreground, in words: a share of what counts, or ml, of each class if several."""
    if share:
        counted = mask.size if case.region is None else np.count_nonzero(case.region)
        return f"{100 * np.count_nonzero(mask) / max(counted, 1):.1f} % of the pixels"
    volumes = [np.count_nonzero(mask == number) * case.native.voxel_volume / 1000 for number in range(1, classes)]
    parts = ", ".join(f"class {number}: {volume:.2f}" for number, volume in enumerate(volumes, 1))
    return f"{sum(volumes):.2f} ml" + (f" ({parts})" if classes > 2 else "")


def _reason(error: Exception) -> str:
    """Return why a file could not be written, in one line; SimpleITK says it in the last of several."""
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
