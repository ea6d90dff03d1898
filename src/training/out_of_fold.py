"""The results of a cross-validation: out-of-fold tables of each seed, and means over the seeds."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.data import get_task
from src.errors import DataError, UserError
from src.files import write_json
from src.inference.scoring import get_scoring, write_scoring
from src.metrics.cases import (
    METRICS,
    Metric,
    Row,
    class_metrics,
    classes_of,
    metrics_of,
    read_rows,
    summarise,
    write_metrics_csv,
)
from src.metrics.text import text_table
from src.overrides import apply_overrides, plain, read_changes
from src.recipe_rules import is_2d
from src.report.html import write_report
from src.training.cross_validation import is_finished
from src.training.cross_validation_plan import CrossValidation

logger = logging.getLogger(__name__)

_SHOWN = ("dice", "hausdorff", "hd95", "abd")  # in the table of the log, with the Dice of each class


def collect(plan: CrossValidation) -> dict[str, Any] | None:
    """Write the tables of every seed all of whose folds are there, and the summary over the seeds when all are.

    With `together`, those of the seeds' mean too, as one more seed that does not count into mean and deviation.

    For a seed: `metrics.csv`, a row a case in the order of the folds, with the fold's number; `summary.json`, as that
    of an evaluation, with `folds`: number of cases and mean of each metric; `report.html`; and what the `scoring` of
    the evaluations writes of all cases, such as `promise12.csv`. For all: `summary.json`, for each metric the mean
    and the sample's standard deviation (n - 1; 0 for one seed) of the seeds' means, and with `together` that of the
    networks' mean.

    Returns:
        The summary over the seeds; None while folds are missing, which the log names.

    Raises:
        UserError: a fold's folder holds other results than the plan's.
        DataError: a case is not exactly once out of fold; lists all.
    """
    of_seeds: dict[int | None, dict[str, Any]] = {}
    metrics: Sequence[Metric] = METRICS
    for seed in plan.groups:
        missing = [fold for fold in plan.folds if not is_finished(plan, seed, fold)]
        if missing:
            logger.info("%s: no summary yet, since fold %s of %d %s missing in %s", plan.title_of(seed),
                        ", ".join(map(str, missing)), len(plan.folds), "is" if len(missing) == 1 else "are",
                        plan.seed_folder(seed))
            continue
        rows = _rows(plan, seed)
        metrics = (*metrics_of(is_2d(plan.recipe)), *class_metrics(classes_of(rows)))
        of_seeds[seed] = _write_seed(plan, seed, rows, metrics)
    if len(of_seeds) < len(plan.groups):
        return None
    summary = {"seeds": list(plan.seeds), **_settings(plan), "cases": len(plan.names),
               **{metric.key: _over_seeds([of_seeds[seed][metric.key]["mean"] for seed in plan.seeds])
                  for metric in metrics}}
    if plan.together:
        for metric in metrics:
            summary[metric.key]["together"] = of_seeds[None][metric.key]["mean"]
    write_json(plan.output / "summary.json", summary)
    logger.info("%s", format_summary({plan.title_of(seed): own for seed, own in of_seeds.items()}, summary, metrics))
    return summary


def format_summary(of_seeds: Mapping[str, Mapping[str, Any]], summary: Mapping[str, Any],
                   metrics: Sequence[Metric]) -> str:
    """Means of each fold, each seed by its title and, of several, over the seeds with their standard deviation."""
    shown = [metric for metric in metrics if metric.key in _SHOWN or metric.key.startswith("dice_")]

    def line(name: str, cases: object, values: Mapping[str, float]) -> list[str]:
        return [name, str(cases), *(metric.text(values[metric.key]) for metric in shown)]

    folds = [line(f"{title}, fold {fold['fold']}", fold["cases"], fold)
             for title, own in of_seeds.items() for fold in own["folds"]]
    foot = [line(f"{title}, all cases", own["cases"], {metric.key: own[metric.key]["mean"] for metric in shown})
            for title, own in of_seeds.items()]
    if len(of_seeds) > 1:
        foot += [line(f"{name} of seeds", "", {metric.key: summary[metric.key][name] for metric in shown})
                 for name in ("mean", "sd")]
    return text_table(["means", "cases", *(metric.title for metric in shown)], folds, foot)


def _rows(plan: CrossValidation, seed: int | None) -> list[dict[str, Any]]:
    """The rows of all folds, with their `fold`; every case exactly once, in the fold it belongs to."""
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    case_id = get_task(plan.recipe.task).case_id
    for fold in plan.folds:
        path = plan.evaluation_folder(seed, fold) / "metrics.csv"
        expected = [case_id(name) for name in plan.fold_names(fold)[1]]
        try:
            found = read_rows(path)
        except ValueError as error:
            raise UserError(f"{plan.title_of(seed)}, fold {fold}: {error}; delete it and repeat the command") from error
        counts = Counter(row["case_id"] for row in found)
        problems += [f"{one}: {counts[one]} times in {path}, expected once" for one in expected if counts[one] != 1]
        problems += [f"{one}: in {path}, expected none that is not in the fold's validation split"
                     for one in counts if one not in expected]
        rows += [{**row, "fold": fold} for row in found]
    if not problems:  # the folds are right; together they have to be the whole split
        counts = Counter(row["case_id"] for row in rows)
        problems = [f"{name}: {counts[case_id(name)]} times out of fold, expected once" for name in plan.names
                    if counts[case_id(name)] != 1]
    if problems:
        raise DataError([f"{problem}; delete the fold's folder out_of_fold and repeat the command"
                         for problem in problems])
    return rows


def _write_seed(plan: CrossValidation, seed: int | None, rows: Sequence[Row],
                metrics: Sequence[Metric]) -> dict[str, Any]:
    folder = plan.seed_folder(seed)
    folds = [{"fold": fold, "cases": len(own),
              **{metric.key: float(np.mean([row[metric.key] for row in own])) for metric in metrics}}
             for fold in plan.folds if (own := [row for row in rows if row["fold"] == fold])]
    trained = {"seeds": list(plan.seeds)} if seed is None else {"seed": seed}
    summary = {**summarise(rows), **trained, **_settings(plan), "folds": folds}
    write_metrics_csv(folder / "metrics.csv", rows, ["fold"])
    write_json(folder / "summary.json", summary)
    _write_scoring(plan, seed, rows)
    dice = next(metric for metric in metrics if metric.key == "dice")
    of_folds = ", ".join(f"{own['fold']}: {dice.text(own['dice'])}" for own in folds)
    notes = [f"Out of fold: each case is predicted by the {plan.checkpoint} checkpoint of the fold that was not "
             "trained on it.",
             f"Mean Dice of the folds: {of_folds}. Slices and learning curves are in "
             f"{folder.name}/fold0/out_of_fold/report.html and so on."]
    if plan.checkpoint == "best":
        notes.append("The best checkpoint of a fold is chosen by the Dice of the cases that are scored here, so these "
                     "figures are too good; evaluate the last one to compare.")
    if seed is None:
        notes.append(f"The probabilities of {len(plan.seeds)} networks are averaged, which differ in their seed alone.")
    several = ("fold", "seed") if seed is None else ("fold",)
    trained_with = plan.recipe if seed is None else plan.fold_recipe(seed, 0)
    recipe = {key: value for key, value in plain(trained_with).items() if key not in several}
    write_report(folder / "report.html", f"Cross-validation of {plan.recipe_name}, {len(plan.folds)} folds, "
                 f"{plan.title_of(seed)}", recipe, rows, summary, None, {}, notes)
    logger.info("%s: %s", plan.title_of(seed), folder / "report.html")
    return summary


def _write_scoring(plan: CrossValidation, seed: int | None, rows: Sequence[Row]) -> None:
    """Write what the scoring says of all cases, where each fold has its table."""
    recipe = apply_overrides(plan.recipe, read_changes(None, plan.eval_changes))
    name, classes = recipe.get("scoring", "none"), recipe.get("classes", 2)
    scoring = get_scoring(name, classes)
    scored = [dict(row) for row in rows]
    if scoring is not None and scoring.table:
        paths = [plan.evaluation_folder(seed, fold) / scoring.table for fold in plan.folds]
        # A score that a fold has is left out: the observer's table of today counts for all.
        scored = [{key: value for key, value in row.items() if key != "score"} | {"fold": fold}
                  for fold, path in zip(plan.folds, paths, strict=True) if all(path.is_file() for path in paths)
                  for row in read_rows(path)]
    write_scoring(name, classes, plan.seed_folder(seed), scored)


def _settings(plan: CrossValidation) -> dict[str, Any]:
    return {"recipe": plan.recipe_name, "checkpoint": plan.checkpoint, "set": list(plan.eval_changes)}


def _over_seeds(means: Sequence[float]) -> dict[str, Any]:
    sd = float(np.std(means, ddof=1)) if len(means) > 1 else 0.0
    return {"mean": float(np.mean(means)), "sd": sd, "by_seed": list(means)}
