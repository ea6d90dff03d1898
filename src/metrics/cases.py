"""All metrics of a case, their summary over cases, and the table in CSV and text.

A *row* is what `evaluate_case` returns: one dict a case, one key a column of `metrics.csv`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from src.files import atomic_path
from src.metrics.masks import mask_pair
from src.metrics.overlap import dice, iou, relative_volume_difference
from src.metrics.surface import checked_spacing, surface_distances

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A number of a row as tables show it: its key, heading, unit, digits after the point, and what it means."""

    key: str
    heading: str
    unit: str
    digits: int
    meaning: str

    def text(self, value: float) -> str:
        return f"{round(value, self.digits) + 0.0:.{self.digits}f}"  # + 0.0: no "-0.0"

    @property
    def title(self) -> str:
        return f"{self.heading} [{self.unit}]" if self.unit else self.heading


METRICS = (
    Metric("dice", "Dice", "", 4, "overlap, 2 |P∩R| / (|P| + |R|); 1 is perfect"),
    Metric("iou", "IoU", "", 4, "overlap, |P∩R| / |P∪R|; 1 is perfect"),
    Metric("hausdorff", "Hausdorff", "mm", 2, "largest distance between the two surfaces"),
    Metric("hd95", "HD95", "mm", 2, "the larger of both directed 95th percentiles of the surface distances"),
    Metric("abd", "ABD", "mm", 2, "average boundary distance over the points of both surfaces"),
    Metric("rvd", "RVD", "%", 1, "relative volume difference; negative: the prediction is too small"),
    Metric("volume_ml_prediction", "Predicted", "ml", 2, "volume of the predicted mask"),
    Metric("volume_ml_reference", "Reference", "ml", 2, "volume of the reference mask"),
)
FLAGS = {
    "both empty": "counted as Dice 1 and distances 0",
    "empty prediction": "counted as Dice 0, distances = the image's diagonal, RVD -100 %",
    "empty reference": "counted as Dice 0, distances = the image's diagonal, RVD +100 %",
}


def evaluate_case(
    case_id: str, prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]
) -> dict[str, Any]:
    """Every metric of one case, on the grid both masks share.

    Args:
        case_id: name of the case in tables and messages.
        prediction, reference: (X, Y, Z) masks; non-zero is foreground.
        spacing: (x, y, z) in mm.

    Returns:
        The row: case_id, the keys of `METRICS` (dice, iou, hausdorff, hd95 and abd in mm, rvd in percent,
        volume_ml_prediction, volume_ml_reference), and flag: "" or a key of `FLAGS`, which say what an
        empty mask counts as. All numbers are finite.

    Raises:
        ValueError: the shapes differ, a mask is not a mask, or the spacing does not fit; names the case.
    """
    try:
        prediction, reference = mask_pair(prediction, reference)
        voxel_ml = float(np.prod(checked_spacing(spacing, prediction.ndim))) / 1000.0
        distances = surface_distances(prediction, reference, spacing)
    except ValueError as error:
        raise ValueError(f"case {case_id}: {error}") from error
    return {
        "case_id": case_id,
        "dice": dice(prediction, reference),
        "iou": iou(prediction, reference),
        "hausdorff": distances.hausdorff,
        "hd95": distances.hd95,
        "abd": distances.average_boundary_distance,
        "rvd": relative_volume_difference(prediction, reference),
        "volume_ml_prediction": float(np.count_nonzero(prediction) * voxel_ml),
        "volume_ml_reference": float(np.count_nonzero(reference) * voxel_ml),
        "flag": _flag(bool(prediction.any()), bool(reference.any())),
    }


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Statistics over cases, ready for JSON.

    Returns:
        `{"cases": n, "flagged": k, "flags": {flag: count}}` and for each key of `METRICS` its
        `{"mean", "sd", "median", "min", "max"}`. sd is the sample's (n - 1), 0 for a single case. Flagged
        cases count with the values that `FLAGS` gives them.

    Raises:
        ValueError: no row, or a number that is not finite; names the case and the metric.
    """
    if not rows:
        raise ValueError("no case to summarise; expected at least one evaluated case")
    summary: dict[str, Any] = {"cases": len(rows), "flagged": sum(1 for row in rows if row["flag"])}
    summary["flags"] = dict(sorted(Counter(row["flag"] for row in rows if row["flag"]).items()))
    for metric in METRICS:
        for row in rows:
            if not math.isfinite(row[metric.key]):
                raise ValueError(f"case {row['case_id']}: {metric.key} is {row[metric.key]}, expected a finite number")
        values = np.array([row[metric.key] for row in rows], dtype=np.float64)
        summary[metric.key] = {
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
            "median": float(np.median(values)),
            "min": float(values.min()),
            "max": float(values.max()),
        }
    return summary


def worst_first(rows: Sequence[Row]) -> list[Row]:
    """The rows by rising Dice; among equals the larger Hausdorff distance first, then by case id."""
    return sorted(rows, key=lambda row: (row["dice"], -row["hausdorff"], row["case_id"]))


def flag_note(summary: Mapping[str, Any]) -> str:
    """One sentence on how many cases are flagged and what they count as; says so when none is."""
    if not summary["flagged"]:
        return f"0 of {summary['cases']} cases flagged: every prediction and reference has foreground."
    parts = [f"{count} {flag} ({FLAGS[flag]})" for flag, count in summary["flags"].items()]
    return f"{summary['flagged']} of {summary['cases']} cases flagged: {'; '.join(parts)}."


def write_metrics_csv(path: str | PathLike, rows: Sequence[Row]) -> None:
    """Write one line a case in the order given, under the keys as header, at full precision; appears whole."""
    columns = ["case_id", *(metric.key for metric in METRICS), "flag"]
    with atomic_path(path) as temporary:
        pd.DataFrame(list(rows), columns=columns).to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def format_table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, worst Dice first, with mean, sd and median under them and the flagged count last.

    Raises:
        ValueError: as `summarise`.
    """
    summary = summarise(rows)
    body = [[row["case_id"], *(m.text(row[m.key]) for m in METRICS), row["flag"]] for row in worst_first(rows)]
    foot = [[name, *(m.text(summary[m.key][name]) for m in METRICS), ""] for name in ("mean", "sd", "median")]
    head = ["case", *(metric.title for metric in METRICS), "flag"]
    widths = [max(len(line[column]) for line in (head, *body, *foot)) for column in range(len(head))]

    def aligned(line: Sequence[str]) -> str:
        numbers = (cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1], strict=True))
        return "  ".join([line[0].ljust(widths[0]), *numbers, line[-1]]).rstrip()

    rule = "-" * max(len(aligned(line)) for line in (head, *body, *foot))
    return "\n".join([aligned(head), rule, *map(aligned, body), rule, *map(aligned, foot), flag_note(summary)])


def _flag(has_prediction: bool, has_reference: bool) -> str:
    if has_prediction and has_reference:
        return ""
    if not has_prediction and not has_reference:
        return "both empty"
    return "empty reference" if has_prediction else "empty prediction"
