"""Charts of the pixel metrics and of the training loss, and all that the scoring `pixels` writes."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.files import atomic_path
from src.metrics.cases import Row
from src.metrics.pixels import CLASSES, RATIOS, remove_pixel_tables, summarise_pixels, write_pixel_tables
from src.report.figures import DPI, figure_png

CHART = "pixels.png"
LOSS_CURVES = {"loss": ("training loss", "#2563eb"), "val_loss": ("validation loss", "#c2410c")}
_TEXT, _GRID = "#3b4452", "#e3e7ee"
_COLOURS = ("#64748b", "#d9485f")  # background, vessel
_HEADINGS = {"iou": "IoU", "recall": "Recall", "precision": "Precision"}
_OTHERS = {"accuracy": "Accuracy", "dice": "Dice", "auc": "AUC", "sensitivity": "Sensitivity",
           "specificity": "Specificity"}


def write_pixels(folder: str | PathLike, rows: Sequence[Row]) -> dict[str, Any]:
    """Write `pixels.csv`, `pixels.json` and `pixels.png`, log the table, and return the summary.

    Args:
        folder: made where it is missing.
        rows: case_id, and what `metrics.pixels.pixel_metrics` returns.

    Raises:
        ValueError: as `metrics.pixels.summarise_pixels`.
    """
    summary = write_pixel_tables(folder, rows)
    with atomic_path(Path(folder) / CHART) as temporary:
        temporary.write_bytes(pixel_charts(rows))
    return summary


def remove_pixels(folder: str | PathLike) -> None:
    """Remove what `write_pixels` wrote, where results that were not scored so take the place of others."""
    remove_pixel_tables(folder)
    (Path(folder) / CHART).unlink(missing_ok=True)


def pixel_charts(rows: Sequence[Row]) -> bytes:
    """Bars of IoU, recall and precision of each class and of the other metrics, means over the cases, as PNG.

    The thin line of a bar runs from the smallest to the largest case; a panel's title holds the mean of both classes.

    Args:
        rows: case_id, and what `metrics.pixels.pixel_metrics` returns.

    Raises:
        ValueError: as `metrics.pixels.summarise_pixels`.
    """
    summary = summarise_pixels(rows)
    figure = Figure(figsize=(12.0, 3.4), dpi=2 * DPI, layout="constrained", facecolor="white")
    panels = figure.subplots(1, 4, sharey=True, width_ratios=(1, 1, 1, 2.1))
    for axes, ratio in zip(panels, RATIOS, strict=False):
        keys = [f"{ratio}_{name}" for name in CLASSES]
        mean = np.mean([summary[key]["mean"] for key in keys])
        _draw_bars(axes, [summary[key] for key in keys], CLASSES, _COLOURS)
        axes.set_title(f"{_HEADINGS[ratio]}, mean {mean:.4f}", loc="left", fontsize=10.5, fontweight="bold",
                       color=_TEXT)
    _draw_bars(panels[3], [summary[key] for key in _OTHERS], list(_OTHERS.values()), ["#4f7fd6"] * len(_OTHERS))
    panels[3].set_title("Further metrics", loc="left", fontsize=10.5, fontweight="bold", color=_TEXT)
    panels[0].set_ylim(0, 1.06)
    panels[0].set_yticks(np.linspace(0, 1, 6))
    if len(rows) > 1:
        figure.supxlabel(f"mean over {len(rows)} cases; thin lines from the smallest to the largest", fontsize=8.5,
                         color=_TEXT)
    return figure_png(figure)


def training_loss_png(history: pd.DataFrame) -> bytes:
    """The training loss over epochs as PNG, with the validation loss where the history has one.

    Args:
        history: one row an epoch with the columns epoch and loss, maybe val_loss; NaN where a value was not taken.

    Raises:
        ValueError: no epoch has a finite loss.
    """
    figure = Figure(figsize=(7.0, 4.0), dpi=2 * DPI, layout="constrained", facecolor="white")
    axes = figure.subplots()
    epochs = history["epoch"].to_numpy(dtype=np.float64) if "epoch" in history else np.zeros(0)
    drawn = []
    for key, (name, colour) in LOSS_CURVES.items():
        values = history[key].to_numpy(dtype=np.float64, na_value=np.nan) if key in history else np.zeros(0)
        taken = np.isfinite(values)
        if not taken.any():
            continue
        marker = "o" if taken.sum() <= 40 else ""
        axes.plot(epochs[taken], values[taken], color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=name,
                  clip_on=False)
        drawn.append(key)
    if "loss" not in drawn:
        raise ValueError(f"the history has no values for loss; columns: {list(history)}")
    if len(drawn) > 1:
        axes.legend(frameon=False, fontsize=9.5, labelcolor=_TEXT)
    axes.set_title("Loss by epoch", loc="left", fontsize=11, fontweight="bold", color=_TEXT)
    axes.set_xlabel("epoch", fontsize=9.5, color=_TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _make_quiet(axes)
    axes.grid(color=_GRID, linewidth=0.8)
    return figure_png(figure)


def _draw_bars(axes: Axes, statistics: Sequence[dict[str, float]], names: Sequence[str],
               colours: Sequence[str]) -> None:
    places = np.arange(len(names))
    means = np.array([values["mean"] for values in statistics])
    axes.bar(places, means, width=0.62, color=colours, alpha=0.85)
    for place, values in zip(places, statistics, strict=True):
        if values["max"] > values["min"]:
            axes.vlines(place, values["min"], values["max"], color=_TEXT, linewidth=1.2)
        axes.text(place, max(values["mean"], values["max"]) + 0.015, f"{values['mean']:.3f}", ha="center", va="bottom",
                  fontsize=9, color=_TEXT)
    axes.set_xticks(places, names, fontsize=9)
    _make_quiet(axes)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)


def _make_quiet(axes: Axes) -> None:
    """No frame, grey letters, and the grid, which follows, behind the drawing."""
    axes.tick_params(colors=_TEXT, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
