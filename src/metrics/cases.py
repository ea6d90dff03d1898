"""All metrics of a case, their summary over cases, and the table in CSV and text.

A *row* is what `evaluate_case` returns: one dict a case, one key a column of `metrics.csv`. With more than two classes
the keys of `METRICS` are of the whole foreground, all classes above 0 as one, and those of `class_metrics` follow.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from src.files import atomic_path
from src.metrics.masks import mask_pair
from src.metrics.overlap import dice, iou, relative_volume_difference
from src.metrics.surface import checked_spacing, surface_distances
from src.metrics.text import text_table

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
_PIXEL_UNITS = {"mm": "px", "ml": "1000 px"}
FLAGS = {
    "both empty": "counted as Dice 1 and distances 0",
    "empty prediction": "counted as Dice 0, distances = the image's diagonal, RVD -100 %",
    "empty reference": "counted as Dice 0, distances = the image's diagonal, RVD +100 %",
}
# The same for one class of several, as in the flag "class 2: both empty".
CLASS_FLAGS = {
    "both empty": "counted as Dice 1 and distances 0",
    "empty prediction": "counted as Dice 0, distances = the image's diagonal",
    "empty reference": "counted as Dice 0, distances = the image's diagonal",
}
FLAG_SEPARATOR = "; "
_CLASS_DICE = re.compile(r"dice_(\d+)")


def metrics_of(pixels: bool) -> tuple[Metric, ...]:
    """`METRICS`; of `pixels`, where a voxel is 1 mm³ for want of a scale, in pixels and thousands of them."""
    if not pixels:
        return METRICS
    return tuple(replace(metric, unit=_PIXEL_UNITS.get(metric.unit, metric.unit)) for metric in METRICS)


def class_metrics(classes: int) -> tuple[Metric, ...]:
    """The further metrics of rows with more than two classes: dice_mean, then dice_k, hd95_k and abd_k of each class.

    Args:
        classes: of the labels, background included; of two there is nothing further.
    """
    if classes == 2:
        return ()
    found = [Metric("dice_mean", "Mean Dice", "", 4, "mean of the Dice of all classes")]
    for k in range(1, classes):
        found += [
            Metric(f"dice_{k}", f"Dice {k}", "", 4, f"overlap of class {k}; 1 is perfect"),
            Metric(f"hd95_{k}", f"HD95 {k}", "mm", 2, f"HD95 of class {k}"),
            Metric(f"abd_{k}", f"ABD {k}", "mm", 2, f"average boundary distance of class {k}"),
        ]
    return tuple(found)


def classes_of(rows: Sequence[Row]) -> int:
    """Number of classes, background included, that rows were evaluated with."""
    numbers = [int(match[1]) for key in (rows[0] if rows else ()) if (match := _CLASS_DICE.fullmatch(key))]
    return max(numbers, default=1) + 1


def evaluate_case(
    case_id: str, prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], classes: int = 2
) -> dict[str, Any]:
    """Every metric of one case, on the grid both masks share.

    Args:
        case_id: name of the case in tables and messages.
        prediction, reference: (X, Y, Z) masks; non-zero is foreground, and with more than two classes the class.
        spacing: (x, y, z) in mm.
        classes: of the labels, background included.

    Returns:
        The row: case_id, the keys of `METRICS` (dice, iou, hausdorff, hd95 and abd in mm, rvd in percent,
        volume_ml_prediction, volume_ml_reference), those of `class_metrics`, and flag: "" or a key of `FLAGS`, which
        say what an empty mask counts as. With more than two classes `class K: ` and a key of `CLASS_FLAGS` follow,
        for each class that the flag of the whole does not speak for. All numbers are finite.

    Raises:
        ValueError: the shapes differ, a mask is not a mask or holds another class, or the spacing does not fit; names
            the case.
    """
    try:
        of_classes, flags = _evaluate_classes(prediction, reference, spacing, classes)
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
        **of_classes,
        "flag": _joined_flags(empty_flag(prediction, reference), flags),
    }


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Statistics over cases, ready for JSON.

    Returns:
        `{"cases": n, "flagged": k, "flags": {flag: count}}` and for each key of `METRICS`, and of `class_metrics`
        where the rows have them, its `{"mean", "sd", "median", "min", "max"}`. sd is the sample's (n - 1), 0 for a
        single case. Flagged cases count with the values that `FLAGS` gives them.

    Raises:
        ValueError: no row, or a number that is not finite; names the case and the metric.
    """
    if not rows:
        raise ValueError("no case to summarise; expected at least one evaluated case")
    metrics = (*METRICS, *class_metrics(classes_of(rows)))
    return {**count_flags(rows), **{metric.key: statistics(rows, metric.key) for metric in metrics}}


def count_flags(rows: Sequence[Row]) -> dict[str, Any]:
    """`{"cases": n, "flagged": k, "flags": {flag: count}}` of rows with a flag; one with two flags counts for both."""
    counts = Counter(flag for row in rows if row["flag"] for flag in row["flag"].split(FLAG_SEPARATOR))
    return {"cases": len(rows), "flagged": sum(1 for row in rows if row["flag"]), "flags": dict(sorted(counts.items()))}


def statistics(rows: Sequence[Row], key: str) -> dict[str, float]:
    """`{"mean", "sd", "median", "min", "max"}` of a number over at least one case.

    Raises:
        ValueError: a number is not finite; names the case and the key.
    """
    for row in rows:
        if not math.isfinite(row[key]):
            raise ValueError(f"case {row['case_id']}: {key} is {row[key]}, expected a finite number")
    values = np.array([row[key] for row in rows], dtype=np.float64)
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def worst_first(rows: Sequence[Row], key: str = "dice") -> list[Row]:
    """The rows by rising Dice (or `key`); among equals the larger Hausdorff distance first, then by case id."""
    return sorted(rows, key=lambda row: (row[key], -row["hausdorff"], row["case_id"]))


def flag_note(summary: Mapping[str, Any]) -> str:
    """One sentence on how many cases are flagged and what they count as; says so when none is."""
    if not summary["flagged"]:
        return f"0 of {summary['cases']} cases flagged: every prediction and reference has foreground."
    parts = []
    for flag, count in summary["flags"].items():
        one_class, _, kind = flag.rpartition(": ")
        parts.append(f"{flag} in {count} ({CLASS_FLAGS[kind]})" if one_class else f"{count} {flag} ({FLAGS[flag]})")
    return f"{summary['flagged']} of {summary['cases']} cases flagged: {'; '.join(parts)}."


def write_metrics_csv(path: str | PathLike, rows: Sequence[Row], further: Sequence[str] = ()) -> None:
    """Write one line a case in the order given, under the keys as header, at full precision; appears whole.

    `further` names keys of the rows, such as a fold's number, that come behind case_id.
    """
    metrics = (*METRICS, *class_metrics(classes_of(rows)))
    write_rows(path, rows, ["case_id", *further, *(metric.key for metric in metrics), "flag"])


def write_rows(path: str | PathLike, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Write the `columns` of the rows as CSV at full precision; appears whole."""
    with atomic_path(path) as temporary:
        pd.DataFrame(list(rows), columns=list(columns)).to_csv(temporary, index=False, lineterminator="\n",
                                                               encoding="utf-8")


def read_rows(path: str | PathLike) -> list[dict[str, Any]]:
    """Read back, exactly, the rows that `write_metrics_csv` or `write_rows` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such table.
    """
    # Case ids such as 007 or NA and empty flags stay words; the default parser would change last digits.
    table = pd.read_csv(path, dtype={"case_id": str, "flag": str}, na_filter=False, float_precision="round_trip")
    if not {"case_id", "flag"} <= set(table):
        raise ValueError(f"{path}: has the columns {', '.join(table)}, expected case_id, flag and metrics")
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def format_table(rows: Sequence[Row], pixels: bool = False) -> str:
    """The rows as aligned text, worst Dice first, with mean, sd and median under them and the flagged count last.

    With more than two classes a second table shows each of them, worst mean Dice first. `pixels` is as for
    `metrics_of`.

    Raises:
        ValueError: as `summarise`.
    """
    summary = summarise(rows)
    tables = [_table(worst_first(rows), metrics_of(pixels), summary, flagged=True)]
    if further := class_metrics(classes_of(rows)):
        tables += ["", _table(worst_first(rows, "dice_mean"), further, summary, flagged=False)]
    return "\n".join([*tables, flag_note(summary)])


def empty_flag(prediction: np.ndarray, reference: np.ndarray) -> str:
    """The key of `FLAGS` that two bool masks deserve; "" where both have foreground."""
    if prediction.any():
        return "" if reference.any() else "empty reference"
    return "empty prediction" if reference.any() else "both empty"


def _table(rows: Sequence[Row], metrics: Sequence[Metric], summary: Mapping[str, Any], flagged: bool) -> str:
    def line(name: str, values: Mapping[str, float], *flag: str) -> list[str]:
        return [name, *(metric.text(values[metric.key]) for metric in metrics), *(flag if flagged else ())]

    body = [line(row["case_id"], row, row["flag"]) for row in rows]
    foot = [line(name, {metric.key: summary[metric.key][name] for metric in metrics}, "")
            for name in ("mean", "sd", "median")]
    head = ["case", *(metric.title for metric in metrics), *(["flag"] if flagged else [])]
    return text_table(head, body, foot, words_last=flagged)


def _evaluate_classes(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], classes: int
) -> tuple[dict[str, float], dict[int, str]]:
    """The values of `class_metrics`, and the flag of each class, "" included; nothing for two classes."""
    values: dict[str, float] = {}
    flags: dict[int, str] = {}
    if classes == 2:
        return values, flags
    mask_pair(prediction, reference)  # raises
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    for name, array in (("prediction", prediction), ("reference", reference)):
        for value in (array.min(), array.max()):
            if not 0 <= value < classes:
                raise ValueError(f"the {name} holds {value}, expected classes 0 to {classes - 1}")
    for k in range(1, classes):
        pair = (prediction == k, reference == k)
        distances = surface_distances(*pair, spacing)
        values |= {f"dice_{k}": dice(*pair), f"hd95_{k}": distances.hd95,
                   f"abd_{k}": distances.average_boundary_distance}
        flags[k] = empty_flag(*pair)
    mean = float(np.mean([values[f"dice_{k}"] for k in flags]))
    return {"dice_mean": mean, **values}, flags


def _joined_flags(whole: str, of_classes: Mapping[int, str]) -> str:
    parts = [whole] if whole else []
    parts += [f"class {k}: {flag}" for k, flag in of_classes.items() if flag not in ("", whole)]
    return FLAG_SEPARATOR.join(parts)
