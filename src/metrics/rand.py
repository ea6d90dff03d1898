"""The Rand error of a segmentation into cells, of the ISBI 2012 challenge.

Source: Arganda-Carreras et al. 2015, Crowdsourcing the creation of image segmentation algorithms for connectomics,
doi:10.3389/fnana.2015.00142: the foreground-restricted Rand score. With n_ij the pixels that cell i of the prediction
and cell j of the reference share, and s_i and t_j their pixels,

    split = Σ n_ij² / Σ t_j²,  merge = Σ n_ij² / Σ s_i²,  F-score = 2 Σ n_ij² / (Σ s_i² + Σ t_j²),

all over the pixels of true cells alone; the error is 1 - F-score. Of two pixels of one true cell, split says how often
the prediction has them in one cell; of two pixels of one predicted cell, merge says how often that is right.

Cells are 4-connected components of the foreground in each slice. A pixel of a true cell that is predicted as membrane
is a cell of its own (as in SNEMI3D's program): it shares none with any other. The challenge's server also thins the
membranes before it compares, which is not done here, so that its figures are not these.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from src.files import write_json
from src.metrics.cases import Metric, Row, count_flags, statistics, write_rows
from src.metrics.masks import mask_pair
from src.metrics.text import text_table

logger = logging.getLogger(__name__)

THRESHOLDS = {f"rand_error_{k / 10}": k / 10 for k in range(1, 10)}  # by key of a row
METRICS = (
    Metric("rand_error", "Rand error", "", 4, "1 - F-score of the Rand index over pixels of true cells; 0 is perfect"),
    Metric("rand_split", "Split score", "", 4, "share of the pixel pairs of a true cell that stay together"),
    Metric("rand_merge", "Merge score", "", 4, "share of the pixel pairs of a predicted cell that belong together"),
)
KEYS = tuple(metric.key for metric in METRICS)
FLAGS = {"no true cell": "no pixel to compare: counted as error 0"}
_FILES = ("rand.csv", "rand.json")


@dataclass(frozen=True)
class RandScore:
    """Rand error, split and merge score, each from 0 to 1; see the module."""

    error: float
    split: float
    merge: float


def cells(mask: np.ndarray) -> np.ndarray:
    """Number the 4-connected components of each slice of a mask (X, Y, Z) from 1 on; 0 is membrane."""
    plane = np.zeros((3, 3, 3), dtype=bool)
    plane[:, :, 1] = ndimage.generate_binary_structure(2, 1)
    return ndimage.label(mask, plane)[0]


def rand_error(mask: np.ndarray, reference: np.ndarray, region: np.ndarray | None = None) -> RandScore:
    """Compare the cells of two masks.

    Args:
        mask, reference: (X, Y, Z); non-zero is cell.
        region: (X, Y, Z) bool, the pixels that count; None for all.

    Returns:
        The scores; of a reference without a cell (in the region) error 0, split and merge 1.

    Raises:
        ValueError: the shapes differ, or a mask is not a mask.
    """
    mask, reference = _inside(mask, reference, region)
    return _compare(cells(mask), cells(reference))


def rand_metrics(probability: np.ndarray, mask: np.ndarray, reference: np.ndarray,
                 region: np.ndarray | None = None) -> dict[str, Any]:
    """The Rand error of a predicted mask, and of the probability above each of `THRESHOLDS`.

    Args:
        probability: (X, Y, Z) of the cell.
        mask, reference, region: as for `rand_error`.

    Returns:
        `KEYS`; `rand_error_0.1` to `rand_error_0.9`; and flag, "" or a key of `FLAGS`.

    Raises:
        ValueError: as `rand_error`.
    """
    mask, reference = _inside(mask, reference, region)
    true = cells(reference)
    own = _compare(cells(mask), true)
    by_threshold = {
        key: _compare(cells(_inside(np.asarray(probability) > threshold, reference, region)[0]), true).error
        for key, threshold in THRESHOLDS.items()}
    return {"rand_error": own.error, "rand_split": own.split, "rand_merge": own.merge, **by_threshold,
            "flag": "" if true.any() else next(iter(FLAGS))}


def write_rand(folder: str | PathLike, rows: Sequence[Row]) -> dict[str, Any]:
    """Write `rand.csv`, a line a case, and `rand.json`, the summary, and log the table.

    Args:
        folder: made where it is missing.
        rows: case_id, and what `rand_metrics` returns; where they have a fold, it becomes a column.

    Returns:
        The summary: cases, flagged and flags; for each of `KEYS` its mean, sd, median, min and max over the cases;
        best: the threshold, one for all cases, with the smallest mean Rand error, the lowest of equal ones, and that
        error.

    Raises:
        ValueError: no row, or a number that is not finite.
    """
    if not rows:
        raise ValueError("no case to score; expected at least one evaluated case")
    errors = {key: statistics(rows, key)["mean"] for key in THRESHOLDS}
    best = min(errors, key=lambda key: errors[key])
    summary = {**count_flags(rows), **{key: statistics(rows, key) for key in KEYS},
               "best": {"threshold": THRESHOLDS[best], "rand_error": errors[best]}}
    columns = ["case_id", *(["fold"] if "fold" in rows[0] else []), *KEYS, *THRESHOLDS, "flag"]
    write_rows(Path(folder) / _FILES[0], rows, columns)
    write_json(Path(folder) / _FILES[1], summary)
    logger.info("%s", format_rand(summary))
    return summary


def remove_rand(folder: str | PathLike) -> None:
    """Remove what `write_rand` wrote, where results that were not scored so take the place of others."""
    for name in _FILES:
        (Path(folder) / name).unlink(missing_ok=True)


def format_rand(summary: Mapping[str, Any]) -> str:
    """Mean, sd and median over cases as a table, and the best threshold and the flagged cases under it."""
    body = [[name, *(metric.text(summary[metric.key][name]) for metric in METRICS)]
            for name in ("mean", "sd", "median")]
    best = summary["best"]
    lines = [text_table(["cells", *(metric.title for metric in METRICS)], body),
             f"best over thresholds: mean Rand error {best['rand_error']:.4f} at {best['threshold']}"]
    lines += [f"{flag} in {count} ({FLAGS[flag]})" for flag, count in summary["flags"].items()]
    return "\n".join(lines)


def _inside(mask: np.ndarray, reference: np.ndarray, region: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    mask, reference = mask_pair(mask, reference)
    if region is None:
        return mask, reference
    if np.shape(region) != mask.shape:
        raise ValueError(f"the region has shape {np.shape(region)} and the masks {mask.shape}; expected one shape")
    return mask & region, reference & region


def _compare(predicted: np.ndarray, true: np.ndarray) -> RandScore:
    """The scores of two numberings of cells, 0 being membrane."""
    counted = true > 0
    s, t = predicted[counted].astype(np.int64), true[counted].astype(np.int64)
    if not t.size:
        return RandScore(0.0, 1.0, 1.0)
    alone = int(np.count_nonzero(s == 0))  # cells of one pixel: each adds 1 to both sums
    width = int(t.max()) + 1
    _, shared = np.unique((s * width + t)[s > 0], return_counts=True)
    together = _squares(shared) + alone
    of_prediction = _squares(np.bincount(s)[1:]) + alone
    of_reference = _squares(np.bincount(t))
    return RandScore(1.0 - 2.0 * together / (of_prediction + of_reference), together / of_reference,
                     together / of_prediction)


def _squares(counts: np.ndarray) -> int:
    return int(np.sum(counts.astype(np.int64) ** 2))
