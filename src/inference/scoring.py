"""Further results of an evaluation, beside the metrics that every case gets: the recipe's `scoring`."""

from pathlib import Path
from typing import Any

import numpy as np

from src.data.geometry import Geometry
from src.metrics.pixels import pixel_metrics
from src.metrics.promise12 import region_metrics, remove_promise12, write_promise12
from src.metrics.rand import rand_metrics, remove_rand, write_rand
from src.report.patients import remove_patients, write_patient_chart, write_patients
from src.report.pixels import remove_pixels, write_pixels


class Scoring:
    """What a scoring says of a case, and writes of all; most do less, and this one does nothing.

    Attributes:
        table: the CSV file of its rows that `write` makes, and cross-validation reads of the folds; empty for one that
            needs case_id and dice alone.
    """

    table = ""

    def row(self, mask: np.ndarray, probability: np.ndarray, label: np.ndarray, region: np.ndarray | None,
            native: Geometry) -> dict[str, Any]:
        """Return the numbers of a case, plain Python types that a rank can send to another.

        Args:
            mask: (x, y, z) uint8, as postprocessed.
            probability: of the foreground, (x, y, z) float32.
            label: (x, y, z) uint8.
            region: (x, y, z) bool, the voxels that count; None for all. The others are 0 in the other arrays.
            native: the grid of all of them.
        """
        return {}

    def picture(self, folder: Path, case_id: str, image: np.ndarray, mask: np.ndarray, label: np.ndarray) -> None:
        """Write the pictures of a case into `folder`, on the rank that predicted it; arrays as those of `row`."""

    def write(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        """Write the tables and pictures of all cases into `folder`, and log what a reader wants to see.

        Args:
            folder: of the results.
            rows: of each case case_id, dice, what `row` gave, and in a cross-validation fold.
        """

    def remove(self, folder: Path) -> None:
        """Remove what `write` wrote, where results without this scoring take the place of others."""


class Promise12(Scoring):
    """The metrics of the PROMISE12 challenge."""

    table = "promise12.csv"

    def row(self, mask: np.ndarray, probability: np.ndarray, label: np.ndarray, region: np.ndarray | None,
            native: Geometry) -> dict[str, Any]:
        return region_metrics(mask, label, native)

    def write(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        write_promise12(folder, rows)  # logs its table

    def remove(self, folder: Path) -> None:
        remove_promise12(folder)


class Patients(Scoring):
    """A chart of the patients' Dice, and every slice of each with outlines, as pictures and as a GIF."""

    def picture(self, folder: Path, case_id: str, image: np.ndarray, mask: np.ndarray, label: np.ndarray) -> None:
        write_patients(folder, case_id, image, mask, label)

    def write(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        write_patient_chart(folder, rows)

    def remove(self, folder: Path) -> None:
        remove_patients(folder)


class Pixels(Scoring):
    """Metrics over the pixels of the region, for background and vessel."""

    table = "pixels.csv"

    def row(self, mask: np.ndarray, probability: np.ndarray, label: np.ndarray, region: np.ndarray | None,
            native: Geometry) -> dict[str, Any]:
        return pixel_metrics(probability, mask, label, region)

    def write(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        write_pixels(folder, rows)  # logs its table

    def remove(self, folder: Path) -> None:
        remove_pixels(folder)


class Rand(Scoring):
    """The Rand error of the segmentation into cells."""

    table = "rand.csv"

    def row(self, mask: np.ndarray, probability: np.ndarray, label: np.ndarray, region: np.ndarray | None,
            native: Geometry) -> dict[str, Any]:
        return rand_metrics(probability, mask, label, region)

    def write(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        write_rand(folder, rows)  # logs its table

    def remove(self, folder: Path) -> None:
        remove_rand(folder)


SCORINGS: dict[str, Scoring] = {"promise12": Promise12(), "patients": Patients(), "pixels": Pixels(), "rand": Rand()}


def get_scoring(name: str, classes: int = 2) -> Scoring | None:
    """Return the scoring of that name; None for `none`, and for labels of several classes, which no scoring knows."""
    found = SCORINGS.get(name)
    return found if classes == 2 else None


def write_scoring(name: str, classes: int, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write what a scoring says of all cases, and remove what an earlier evaluation by another one left.

    Args:
        name, classes: as for `get_scoring`.
        folder: of the results.
        rows: see `Scoring.write`; without any, as where folds were not scored so, nothing is written.
    """
    chosen = get_scoring(name, classes)
    for scoring in SCORINGS.values():
        if scoring is not chosen or not rows:
            scoring.remove(folder)
    if chosen is not None and rows:
        chosen.write(folder, rows)
