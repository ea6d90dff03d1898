"""Metrics over the pixels of a case for two classes, background and vessel, inside the region where pixels count.

What a picture with one class only counts as, so that every value is a number:

- a ratio (IoU, recall, precision, Dice) of a class that is neither predicted nor in the reference is 1, since both
  agree; where one of the two has the class and the ratio's denominator is 0, it is 0;
- AUC of a reference of one class is 0.5: there is no pair of pixels to order.

`FLAGS` says which cases these are.
"""

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from src.files import write_json
from src.metrics.cases import FLAG_SEPARATOR, Metric, Row, count_flags, statistics, write_rows
from src.metrics.masks import mask_pair
from src.metrics.text import text_table

logger = logging.getLogger(__name__)

CLASSES = ("background", "vessel")
RATIOS = ("iou", "recall", "precision")
METRICS = (
    *(Metric(f"{ratio}_{name}", f"{heading} {name}", "", 4, f"{meaning}, of the {name}")
      for ratio, heading, meaning in (("iou", "IoU", "|P∩R| / |P∪R|"), ("recall", "Recall", "|P∩R| / |R|"),
                                      ("precision", "Precision", "|P∩R| / |P|"))
      for name in CLASSES),
    Metric("miou", "mIoU", "", 4, "mean of both classes' IoU"),
    Metric("accuracy", "Accuracy", "", 4, "share of the pixels whose class is right"),
    Metric("dice", "Dice", "", 4, "of the vessel, 2 |P∩R| / (|P| + |R|)"),
    Metric("auc", "AUC", "", 4, "area under the ROC curve of the probability"),
    Metric("sensitivity", "Sensitivity", "", 4, "the vessel's recall"),
    Metric("specificity", "Specificity", "", 4, "the background's recall"),
)
KEYS = tuple(metric.key for metric in METRICS)
COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")
FLAGS = {
    "no vessel in the reference": "AUC counted as 0.5, the vessel's recall as 1 where none is predicted, else 0",
    "no background in the reference": "AUC counted as 0.5, the background's recall as 1 where none is predicted, "
                                      "else 0",
}
_FILES = ("pixels.csv", "pixels.json")


def pixel_metrics(probability: np.ndarray, mask: np.ndarray, reference: np.ndarray,
                  region: np.ndarray | None = None) -> dict[str, Any]:
    """The metrics of one case over the pixels of its region.

    Args:
        probability: (X, Y, Z) of the vessel; only its order counts, for the AUC.
        mask, reference: (X, Y, Z); non-zero is vessel.
        region: (X, Y, Z) bool, the pixels that count; None for all.

    Returns:
        `KEYS`; `COUNTS`, in pixels; and flag, "" or keys of `FLAGS`. All numbers are finite, see the module.

    Raises:
        ValueError: the shapes differ, a mask is not a mask, the probability is not finite in the region, or no pixel
            counts.
    """
    mask, reference = mask_pair(mask, reference)
    for name, array in (("probability", probability), ("region", region)):
        if array is not None and np.shape(array) != mask.shape:
            raise ValueError(f"the {name} has shape {np.shape(array)} and the masks {mask.shape}; expected one shape")
    inside = np.ones(mask.shape, dtype=bool) if region is None else np.asarray(region, dtype=bool)
    if not inside.any():
        raise ValueError("no pixel counts: the region is empty")
    predicted, true = mask[inside], reference[inside]
    counts = dict(zip(COUNTS, (int(np.count_nonzero(both)) for both in (
        predicted & true, predicted & ~true, ~predicted & true, ~predicted & ~true)), strict=True))
    flags = [flag for flag, missing in zip(FLAGS, (not true.any(), true.all()), strict=True) if missing]
    return {**ratios(counts), "auc": area_under_curve(np.asarray(probability)[inside], true), **counts,
            "flag": FLAG_SEPARATOR.join(flags)}


def ratios(counts: Mapping[str, int]) -> dict[str, float]:
    """All of `KEYS` but auc from the `COUNTS` of pixels, of one case or summed over several."""
    tp, fp, fn, tn = (counts[key] for key in COUNTS)
    result = {}
    for name, hits, wrong, missed in (("background", tn, fn, fp), ("vessel", tp, fp, fn)):
        nowhere = float(hits + wrong + missed == 0)
        for ratio, whole in (("iou", hits + wrong + missed), ("recall", hits + missed), ("precision", hits + wrong)):
            result[f"{ratio}_{name}"] = hits / whole if whole else nowhere
    return {**result, "miou": (result["iou_background"] + result["iou_vessel"]) / 2,
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "dice": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0,
            "sensitivity": result["recall_vessel"], "specificity": result["recall_background"]}


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve, exactly: the share of pairs (positive, negative) that the score orders rightly.

    A pair of equal scores counts a half. It is the Mann-Whitney statistic over the number of pairs, from mean ranks
    (Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747).

    Args:
        score: (N,) numbers; larger means rather positive.
        positive: (N,) bool.

    Returns:
        0 to 1; 0.5 where all are positive, or none is.

    Raises:
        ValueError: a score is not finite.
    """
    if not np.isfinite(score).all():
        raise ValueError(f"the probability is not finite in {np.count_nonzero(~np.isfinite(score))} of {score.size} "
                         "pixels; expected numbers")
    positives = int(np.count_nonzero(positive))
    negatives = positive.size - positives
    if not positives or not negatives:
        return 0.5
    rank_sum = float(rankdata(score, method="average")[positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def summarise_pixels(rows: Sequence[Row]) -> dict[str, Any]:
    """Statistics over cases, ready for JSON.

    Args:
        rows: case_id, and what `pixel_metrics` returns.

    Returns:
        cases, flagged and flags; for each of `KEYS` its mean, sd, median, min and max over the cases; pooled: `KEYS`
        but auc, over the pixels of all cases as one picture; counts: the sums of `COUNTS`.

    Raises:
        ValueError: no row, or a number that is not finite.
    """
    if not rows:
        raise ValueError("no case to summarise; expected at least one evaluated case")
    counts = {key: sum(int(row[key]) for row in rows) for key in COUNTS}
    return {**count_flags(rows), **{key: statistics(rows, key) for key in KEYS}, "pooled": ratios(counts),
            "counts": counts}


def write_pixel_tables(folder: str | PathLike, rows: Sequence[Row]) -> dict[str, Any]:
    """Write `pixels.csv`, a line a case, and `pixels.json`, the summary, and log the table.

    Args:
        folder: made where it is missing.
        rows: see `summarise_pixels`; where they have a fold, it becomes a column.

    Returns:
        The summary.

    Raises:
        ValueError: as `summarise_pixels`.
    """
    summary = summarise_pixels(rows)
    columns = ["case_id", *(["fold"] if "fold" in rows[0] else []), *KEYS, *COUNTS, "flag"]
    write_rows(Path(folder) / _FILES[0], rows, columns)
    write_json(Path(folder) / _FILES[1], summary)
    logger.info("%s", format_pixels(summary))
    return summary


def remove_pixel_tables(folder: str | PathLike) -> None:
    """Remove what `write_pixel_tables` wrote."""
    for name in _FILES:
        (Path(folder) / name).unlink(missing_ok=True)


def format_pixels(summary: Mapping[str, Any]) -> str:
    """The means over cases as a table, a line a class, and the numbers of the whole picture under it."""
    digits = {metric.key: metric for metric in METRICS}
    body = [[name, *(digits[key].text(summary[key]["mean"]) for key in (f"{ratio}_{name}" for ratio in RATIOS))]
            for name in CLASSES]
    means = ["mean", *(digits[f"{ratio}_vessel"].text(
        float(np.mean([summary[f"{ratio}_{name}"]["mean"] for name in CLASSES]))) for ratio in RATIOS)]
    whole = ", ".join(f"{digits[key].heading} {digits[key].text(summary[key]['mean'])}"
                      for key in ("miou", "accuracy", "dice", "auc", "sensitivity", "specificity"))
    lines = [text_table(["pixels", "IoU", "Recall", "Precision"], body, [means]),
             f"means over {summary['cases']} case{'s' * (summary['cases'] != 1)}: {whole}"]
    if summary["flagged"]:
        lines.append("; ".join(f"{flag} in {count} ({FLAGS[flag]})" for flag, count in summary["flags"].items()))
    return "\n".join(lines)
