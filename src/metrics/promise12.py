"""The scoring of the PROMISE12 challenge: four metrics of three regions, and a score of 0 to 100 from them.

Source: Litjens et al. 2014, Evaluation of prostate segmentation algorithms for MRI: the PROMISE12 challenge,
doi:10.1016/j.media.2013.12.002. Ours, where the organisers' program may do otherwise: how many slices apex and base get
when the reference's number of slices is not divisible by three, where slices beyond the reference belong (see
`regions`), and that the border of a region is no surface (see `region_metrics`).
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from src.data.geometry import Geometry
from src.errors import UserError
from src.files import write_json
from src.metrics.cases import FLAG_SEPARATOR, Metric, Row, count_flags, empty_flag, statistics, write_rows
from src.metrics.masks import mask_pair
from src.metrics.overlap import dice, relative_volume_difference
from src.metrics.surface import surface_distances
from src.metrics.text import text_table

logger = logging.getLogger(__name__)

REGIONS = ("whole", "apex", "base")
METRICS = (
    Metric("dice", "Dice", "", 4, "overlap; 1 is perfect"),
    Metric("hd95", "HD95", "mm", 2, "the larger of both directed 95th percentiles of the surface distances"),
    Metric("abd", "ABD", "mm", 2, "average boundary distance over the points of both surfaces"),
    Metric("abs_rvd", "|RVD|", "%", 1, "absolute relative volume difference"),
)
KEYS = tuple(f"{metric.key}_{region}" for region in REGIONS for metric in METRICS)
REFERENCE_PATH = Path(__file__).resolve().parents[2] / "configs" / "promise12_reference.json"
OBSERVER_SCORE = 85.0  # of a result as good as the second observer's


def regions(reference: np.ndarray, geometry: Geometry) -> dict[str, np.ndarray]:
    """Which voxels are the apex and which the base: the lowest and the highest third of the reference's slices.

    Slices are those across the image axis closest to the patient's inferior-superior axis, whichever that is and
    whichever way it points. Of n slices from the reference's first to its last, apex and base get n / 3 each, rounded
    (4: 1, 2 in the middle, 1; 5: 2, 1, 2), but one at least. Slices beyond the reference belong to the apex below it
    and to the base above it, so that what is predicted there counts.

    Args:
        reference: (X, Y, Z) bool with foreground.
        geometry: its grid.

    Returns:
        `apex` and `base`, (X, Y, Z) bool each.
    """
    upward = geometry.matrix[2]  # the third row: how far each image axis runs towards the head (LPS)
    axis = int(np.abs(upward).argmax())
    occupied = np.flatnonzero(reference.any(axis=tuple(other for other in range(3) if other != axis)))
    first, last = int(occupied[0]), int(occupied[-1])
    third = max(1, round((last - first + 1) / 3))
    index = np.arange(reference.shape[axis]).reshape([-1 if k == axis else 1 for k in range(3)])
    low = np.broadcast_to(index < first + third, reference.shape)
    high = np.broadcast_to(index > last - third, reference.shape)
    return {"apex": low, "base": high} if upward[axis] > 0 else {"apex": high, "base": low}


def region_metrics(prediction: np.ndarray, reference: np.ndarray, geometry: Geometry) -> dict[str, Any]:
    """The challenge's metrics of one case.

    Surface distances of apex and base are those of the surface points in the region to the whole of the other
    surface: the plane that parts two regions is no boundary of the gland.

    Args:
        prediction, reference: (X, Y, Z) masks; non-zero is foreground.
        geometry: the grid of both.

    Returns:
        `KEYS`: dice, hd95 and abd (mm) and abs_rvd (percent) of the whole gland, the apex and the base, such as
        `dice_apex`; and flag: "" or what `metrics.cases.FLAGS` has for the whole, or, as in "apex: empty prediction",
        for a region. All numbers are finite: empty masks count as `FLAGS` says. Of an empty reference, which has no
        thirds, apex and base get the values of the whole.

    Raises:
        ValueError: the shapes differ, or a mask is not a mask.
    """
    prediction, reference = mask_pair(prediction, reference)
    parts: dict[str, np.ndarray | None] = {"whole": None, "apex": None, "base": None}
    if reference.any():
        parts |= regions(reference, geometry)
    result: dict[str, Any] = {}
    flags = []
    for region in REGIONS:
        part = parts[region]
        pair = (prediction, reference) if part is None else (prediction & part, reference & part)
        distances = surface_distances(prediction, reference, geometry.spacing, part)
        result |= {f"dice_{region}": dice(*pair), f"hd95_{region}": distances.hd95,
                   f"abd_{region}": distances.average_boundary_distance,
                   f"abs_rvd_{region}": abs(relative_volume_difference(*pair))}
        flag = empty_flag(*pair)
        if region == "whole":
            whole = flag
            flags += [flag] if flag else []
        elif flag != whole:
            flags.append(f"{region}: {flag}")
    return {**result, "flag": FLAG_SEPARATOR.join(flags)}


def score(key: str, value: float, observer: float) -> float:
    """A metric on the challenge's scale: 100 for a perfect result, 85 for the second observer's, linear, at least 0.

    Args:
        key: of `KEYS`; of Dice 1 is perfect, of all others 0.
        value: of the result.
        observer: of the second observer.
    """
    lost = (1.0 - value) / (1.0 - observer) if key.startswith("dice_") else value / observer
    return max(0.0, 100.0 - (100.0 - OBSERVER_SCORE) * lost)


def read_observer(path: str | PathLike | None = None) -> tuple[dict[str, float], list[str]]:
    """The second observer's metrics from a JSON file as `configs/promise12_reference.json`, the default.

    Returns:
        The known values by key, and the keys that are null.

    Raises:
        UserError: the file cannot be read, has other keys than `KEYS`, or a value that no observer can have.
    """
    path = Path(path or REFERENCE_PATH)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["second_observer"]
        keys = set(table)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a table of the second observer ({error!r}); expected an object "
                        "'second_observer' as in configs/promise12_reference.json") from error
    if keys != set(KEYS):
        wrong = ", ".join(sorted(keys ^ set(KEYS)))
        raise UserError(f"{path}: second_observer has wrong or missing keys ({wrong}); expected {', '.join(KEYS)}")
    for key, value in table.items():
        limit = 1.0 if key.startswith("dice_") else math.inf
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value < limit):
            expected = "a Dice between 0 and 1" if limit == 1 else "a number above 0"
            raise UserError(f"{path}: {key} is {value!r}, expected {expected}, or null where it is unknown")
    return {key: float(table[key]) for key in KEYS if table[key] is not None}, [k for k in KEYS if table[k] is None]


def write_promise12(
    folder: str | PathLike, rows: Sequence[Row], reference_path: str | PathLike | None = None
) -> dict[str, Any]:
    """Write `promise12.csv`, a line a case, and `promise12.json`, the summary, and log the table.

    A case's score is the mean over its twelve metrics, the result's the mean over cases. Without the second observer's
    values there is none, and a sentence says so.

    Args:
        folder: made where it is missing.
        rows: case_id, and what `region_metrics` returns; where they have a fold, it becomes a column.
        reference_path: table of the second observer; by default `configs/promise12_reference.json`.

    Returns:
        The summary: cases, flagged and flags; for each of `KEYS` its mean, sd, median, min and max over the cases;
        score: the same of the case scores, or None; scores: the mean score of each key, or None; note: a sentence.

    Raises:
        UserError: as `read_observer`.
        ValueError: no row, or a number that is not finite.
    """
    if not rows:
        raise ValueError("no case to score; expected at least one evaluated case")
    path = Path(reference_path or REFERENCE_PATH)
    observer, unknown = read_observer(path)
    summary: dict[str, Any] = {**count_flags(rows), **{key: statistics(rows, key) for key in KEYS}}
    columns = ["case_id", *(["fold"] if "fold" in rows[0] else []), *KEYS]
    if unknown:
        summary |= {"score": None, "scores": None}
        name = path.relative_to(REFERENCE_PATH.parents[1]) if path == REFERENCE_PATH else path
        note = (f"PROMISE12: metrics without the 0-100 score, since {name} lacks {len(unknown)} of {len(KEYS)} values "
                "of the second observer; fill them in from the organisers' paper.")
    else:
        by_case = [{key: score(key, row[key], observer[key]) for key in KEYS} for row in rows]
        rows = [{**row, "score": float(np.mean(list(scores.values())))}
                for row, scores in zip(rows, by_case, strict=True)]
        summary |= {"score": statistics(rows, "score"),
                    "scores": {key: float(np.mean([scores[key] for scores in by_case])) for key in KEYS}}
        columns.append("score")
        note = f"PROMISE12 score: {summary['score']['mean']:.2f} of 100 (85: as good as the second observer)."
    summary["note"] = note
    write_rows(Path(folder) / "promise12.csv", rows, [*columns, "flag"])
    write_json(Path(folder) / "promise12.json", summary)
    logger.info("%s\n%s", format_promise12(summary), note)
    return summary


def remove_promise12(folder: str | PathLike) -> None:
    """Remove what `write_promise12` wrote, where results that were not scored so take the place of others."""
    for name in ("promise12.csv", "promise12.json"):
        (Path(folder) / name).unlink(missing_ok=True)


def format_promise12(summary: Mapping[str, Any]) -> str:
    """The means over cases as a table, a line a region."""
    body = [[region, *(metric.text(summary[f"{metric.key}_{region}"]["mean"]) for metric in METRICS)]
            for region in REGIONS]
    return text_table(["PROMISE12", *(metric.title for metric in METRICS)], body)
