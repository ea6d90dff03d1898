"""What an evaluation writes: masks, tables, the report."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from easydict import EasyDict

from src.backend import Backend
from src.checkpoint import HISTORY_NAME, Checkpoint, cases_behind, run_folder_of
from src.collectives import ONE_RANK, gather
from src.data import Case, build_manager, get_task
from src.data.check import checked_cases
from src.data.geometry import Geometry
from src.data.split import read_split
from src.errors import UserError
from src.files import write_json
from src.inference.evaluate import evaluate_cases
from src.inference.postprocess import Postprocess
from src.inference.predictor import Predictor
from src.inference.scoring import get_scoring, write_scoring
from src.metrics.cases import format_table, summarise, write_metrics_csv
from src.overrides import plain
from src.recipe_rules import is_2d
from src.report.figures import overlay_png
from src.report.html import write_report

logger = logging.getLogger(__name__)

REPORT_NAME = "report.html"


@dataclass(frozen=True)
class OutputFolders:
    """Where an evaluation writes: `results` gets tables and report, `predictions` the masks."""

    results: Path
    predictions: Path


def require_output_dir(checkpoint_paths: Sequence[Path], output_dir: Path | None) -> None:
    """Check, before anything is loaded, that an evaluation knows where to write.

    Raises:
        UserError: several checkpoints without `output_dir`: no run folder is theirs together.
    """
    if len(checkpoint_paths) > 1 and output_dir is None:
        raise UserError(f"--ckpt_path: found {len(checkpoint_paths)} checkpoints, which are evaluated as one ensemble "
                        "and belong to no one run folder; say with --output_dir where the results go")


def output_folders(checkpoint_path: Path, recipe: EasyDict, output_dir: Path | None = None) -> OutputFolders:
    """Return the folders for the evaluation of a checkpoint, or of an ensemble, any member of which will do.

    `output_dir` where given, as with ensembles, see `require_output_dir`; else the run folder that the checkpoint lies
    in; else, for a checkpoint in none, the recipe's `dirResult`. Masks go to `dirPredictionImage` below the first two,
    and below the present folder else.
    """
    folder = output_dir or run_folder_of(checkpoint_path)
    if folder is None:
        return OutputFolders(Path(recipe.dirResult), Path(recipe.dirPredictionImage))
    return OutputFolders(folder, folder / recipe.dirPredictionImage)


def evaluate_split(predictor: Predictor, recipe: EasyDict, checkpoint: Checkpoint | Sequence[Checkpoint],
                   data_path: Path, split_path: Path, folders: OutputFolders, save_predictions: bool = True,
                   backend: Backend = ONE_RANK) -> list[dict[str, Any]]:
    """Evaluate every case of a split and write `metrics.csv`, `summary.json`, `report.html` and the masks.

    With a `scoring` its tables and pictures come beside them, see `scoring.py`; those that an earlier evaluation left
    by another are removed. The table and the two averages that people grep for go to the log. Several ranks share the
    cases: each writes the masks and pictures of its own, rank 0 all else.

    Args:
        predictor: of the checkpoint, or of several as an ensemble.
        recipe: task, preprocessing, postprocessing, `scoring`.
        checkpoint: named in the report, with its epoch; all of them for an ensemble.
        data_path: folder of the data set, such as one that holds `img/` and `gt/`.
        split_path: one image file name a line.
        folders: see `output_folders`.
        save_predictions: whether masks are written, such as `CaseNN_test.mhd` with the image's geometry (see the
            manager's `write_mask`), and the scoring's pictures of each case.
        backend: says which rank this is, of how many.

    Returns:
        A row per case, the same on every rank.

    Raises:
        UserError: the split is wrong, or a probability is not finite.
        DataError: every problem of the data, missing and damaged files alike, before anything is predicted.
    """
    manager = build_manager(recipe)
    names = read_split(split_path)
    make_folder(folders.results, "output folder")
    cases = checked_cases(get_task(recipe.task), data_path, names, manager)
    checkpoints = [checkpoint] if isinstance(checkpoint, Checkpoint) else list(checkpoint)
    notes = _training_overlap(checkpoints, names)
    pictures: dict[str, bytes] = {}
    scoring = recipe.get("scoring", "none")
    scorer = get_scoring(scoring, manager.classes)

    def on_case(case: Case, image: np.ndarray, mask: np.ndarray, reference: np.ndarray, grid: Geometry) -> None:
        pictures[case.case_id] = overlay_png(image, mask, reference, grid.spacing, grid.direction)
        if save_predictions:
            manager.write_mask(folders.predictions, case, mask, grid)
            if scorer is not None:
                scorer.picture(folders.results, case.case_id, image, mask, reference)

    rows = evaluate_cases(predictor, manager, cases, on_case, Postprocess.from_recipe(recipe), backend, scoring)
    scored = [{"case_id": row["case_id"], "dice": row["dice"], **row.pop(scoring)} for row in rows if scoring in row]
    all_pictures = {case_id: picture for own in gather(backend, pictures) for case_id, picture in own.items()}
    if not backend.is_main:
        return rows
    summary = summarise(rows)
    write_metrics_csv(folders.results / "metrics.csv", rows)
    write_json(folders.results / "summary.json", summary)
    write_report(folders.results / REPORT_NAME, f"Evaluation of {checkpoint_title(checkpoints)}", plain(recipe), rows,
                 summary, _history(checkpoints), all_pictures, notes)
    logger.info("%s", format_table(rows, is_2d(recipe)))
    logger.info("report: %s", folders.results / REPORT_NAME)
    if save_predictions:
        logger.info("masks: %s", folders.predictions)
    write_scoring(scoring, manager.classes, folders.results, scored)  # logs its table
    if "dice_mean" in summary:
        logger.info("avg_dice_of_classes: %.4f", summary["dice_mean"]["mean"])
    logger.info("avg_Hausdorff_distance: %.2f", summary["hausdorff"]["mean"])
    logger.info("avg_dice: %.4f", summary["dice"]["mean"])
    return rows


def make_folder(folder: Path, option: str) -> None:
    """Make a folder that results can be written to.

    Raises:
        UserError: it cannot be made or written to; names the command line's `option` that chose it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {folder}: cannot be made a folder ({error.strerror}); choose another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option} {folder}: no permission to write there; choose another folder")


def _training_overlap(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> list[str]:
    trained_on = {name for checkpoint in checkpoints for run in cases_behind(checkpoint.state)
                  for name in run["train_names"]}
    seen = sorted(set(names) & trained_on)
    if not seen:
        return []
    listed = ", ".join(seen[:5]) + (", …" if len(seen) > 5 else "")
    note = (f"{len(seen)} of {len(names)} cases are named like training cases ({listed}): if they are the same, their "
            "scores say nothing about new cases")
    logger.warning("%s", note)
    return [note]


def checkpoint_title(checkpoints: Sequence[Checkpoint]) -> str:
    """Return how a report names a checkpoint, or the members of an ensemble."""
    if len(checkpoints) > 1:
        # Members of one ensemble are often of one name, in several run folders.
        places = [(folder.name + "/" if (folder := run_folder_of(checkpoint.path)) else "") + checkpoint.path.name
                  for checkpoint in checkpoints]
        return f"an ensemble of {len(checkpoints)}: {', '.join(places)}"
    epoch = checkpoints[0].state.get("epoch")
    return f"{checkpoints[0].path.name}{f', epoch {epoch}' if epoch is not None else ''}"


def _history(checkpoints: Sequence[Checkpoint]) -> pd.DataFrame | None:
    """Return the history of the one run; an ensemble has none."""
    run_folder = run_folder_of(checkpoints[0].path) if len(checkpoints) == 1 else None
    path = run_folder / HISTORY_NAME if run_folder else None
    return pd.read_csv(path, float_precision="round_trip") if path and path.is_file() else None
