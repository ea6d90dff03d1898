"""Pictures of cases and learning curves, drawn with Matplotlib's Agg canvas and no global state."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from src.report.montage import IDENTITY, View, choose_slices, crop_window, grey_window, make_view

# By class, 1 first; with more classes they repeat.
PREDICTION_COLOURS = ("#ff2d2d", "#ffa31a", "#ff5ad1", "#ffe94d")
REFERENCE_COLOURS = ("#25d366", "#22c3e6", "#5b8cff", "#b18cff")
PANEL_WIDTH = 300  # pixels
PANEL_GAP = 6
DPI = 100
_GAP_COLOUR = "#0b0e13"

_THEMES: Mapping[bool, Mapping[str, str]] = {
    False: {"text": "#3b4452", "grid": "#e3e7ee", "line": "#2563eb", "mark": "#c2410c"},
    True: {"text": "#c3cad6", "grid": "#2b3340", "line": "#6ea8fe", "mark": "#fb923c"},
}
CURVES = {"loss": "Training loss", "val_loss": "Validation loss", "val_dice": "Validation Dice",
          "lr": "Learning rate"}


def overlay_png(
    image: np.ndarray,
    prediction: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    direction: Sequence[float] = IDENTITY,
    slices: Sequence[int] | None = None,
    columns: int = 5,
) -> bytes:
    """A few slices of a case as PNG, the predicted outline in red over the true one in green.

    Further classes have outlines in `PREDICTION_COLOURS` (warm) and `REFERENCE_COLOURS` (cold) of their own.
    The reference is the broader line beneath, so that both show where they agree. Panels are `PANEL_WIDTH`
    pixels wide, `PANEL_GAP` apart, in the radiological convention (see `montage.make_view`), cropped around the
    masks and with the aspect ratio of the voxels. The number in the corner is the z index.

    Args:
        image: (X, Y, Z) intensities.
        prediction, reference: (X, Y, Z) masks (0 is background, k is class k); either or both may be None.
        spacing: (x, y, z) in mm.
        direction: 9 numbers, row major, LPS; identity where unknown.
        slices: z indices to show, in this order; by default about `columns` spread over the masks.
        columns: panels a row.

    Raises:
        ValueError: shapes, spacing or direction do not fit together, or a slice is not in the image.
    """
    figure = _montage(make_view(image, prediction, reference, spacing, direction), slices, columns)
    return figure_png(figure, facecolor=_GAP_COLOUR)


def overlay_array(
    image: np.ndarray,
    prediction: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    direction: Sequence[float] = IDENTITY,
    slices: Sequence[int] | None = None,
    columns: int = 5,
) -> np.ndarray:
    """The picture of `overlay_png` as an array (H, W, 3) uint8, for TensorBoard's `add_image(dataformats="HWC")`.

    Raises:
        ValueError: as `overlay_png`.
    """
    figure = _montage(make_view(image, prediction, reference, spacing, direction), slices, columns)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def curves_png(history: pd.DataFrame, curves: Sequence[str] | None = None, dark: bool = False) -> bytes:
    """Learning curves over epochs as PNG with a transparent background, one panel a curve, side by side.

    Args:
        history: one row an epoch (or step) with the column epoch and those of `CURVES`; NaN where a value was
            not taken, as in val_dice between validations.
        curves: keys of `CURVES` to draw; by default those that `available_curves` finds.
        dark: colours for a dark page.

    Raises:
        ValueError: there is nothing to draw, or a curve is not in the history.
    """
    curves = available_curves(history) if curves is None else list(curves)
    missing = [curve for curve in curves if curve not in available_curves(history)]
    if not curves or missing:
        raise ValueError(f"the history has no values for {', '.join(missing or CURVES)}; columns: {list(history)}")
    figure = Figure(figsize=(4.4 * len(curves), 2.9), dpi=2 * DPI, layout="constrained")
    for axes, curve in zip(np.atleast_1d(figure.subplots(1, len(curves))), curves, strict=True):
        _draw_curve(axes, history, curve, _THEMES[dark])
    return figure_png(figure, transparent=True)


def available_curves(history: pd.DataFrame) -> list[str]:
    """Keys of `CURVES` that the history has at least one finite value of."""
    return [curve for curve in CURVES if curve in history and np.isfinite(_numbers(history, curve)).any()]


def _montage(view: View, slices: Sequence[int] | None, columns: int) -> Figure:
    depth = view.image.shape[2]
    chosen = choose_slices(view, columns) if slices is None else list(slices)
    outside = [z for z in chosen if not 0 <= z < depth]
    if not chosen or outside or columns < 1:
        raise ValueError(f"cannot show slices {chosen} in {columns} columns: the image has slices 0 to {depth - 1}")
    window = crop_window(view)
    extent = [(part.stop - part.start) * step for part, step in zip(window, view.spacing[:2], strict=True)]
    height = max(1, min(round(PANEL_WIDTH * extent[1] / extent[0]), 2 * PANEL_WIDTH))
    width = max(1, min(PANEL_WIDTH, round(height * extent[0] / extent[1])))
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    total = (columns * (width + PANEL_GAP) - PANEL_GAP, rows * (height + PANEL_GAP) - PANEL_GAP)

    figure = Figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=DPI, facecolor=_GAP_COLOUR)
    shown = view.image[window][:, :, chosen]
    low, high = grey_window(shown)
    limits = [(part.start - 0.5, part.stop - 0.5) for part in window]  # voxel centres are whole numbers
    for position, z in enumerate(chosen):
        row, column = divmod(position, columns)
        left, top = column * (width + PANEL_GAP), row * (height + PANEL_GAP)
        axes = figure.add_axes(
            (left / total[0], 1 - (top + height) / total[1], width / total[0], height / total[1]), frameon=False
        )
        axes.set_axis_off()
        axes.imshow(
            shown[:, :, position].T, cmap="gray", vmin=low, vmax=high, interpolation="bicubic", aspect="auto",
            extent=(*limits[0], *limits[1][::-1]),
        )  # fmt: skip
        for mask, colours, line_width in (
            (view.reference, REFERENCE_COLOURS, 3.2),
            (view.prediction, PREDICTION_COLOURS, 1.5),
        ):
            plane = np.zeros((1, 1), np.uint8) if mask is None else mask[:, :, z]
            for k in np.unique(plane[plane > 0]):
                _outline(axes, plane == k, colours[(k - 1) % len(colours)], line_width)
        axes.set_xlim(*limits[0])
        axes.set_ylim(*limits[1][::-1])
        axes.text(
            0.025, 0.975, f"z {z}", transform=axes.transAxes, ha="left", va="top", fontsize=11, color="white",
            path_effects=[withStroke(linewidth=3, foreground="black")],
        )  # fmt: skip
    return figure


def _outline(axes: Axes, mask: np.ndarray, colour: str, line_width: float) -> None:
    """The 0.5 level of an (X, Y) mask, which runs between foreground and background voxels.

    The margin of one voxel closes outlines that touch the image's border.
    """
    padded = np.pad(mask, 1).astype(np.float32)
    grid = [np.arange(-1, size + 1) for size in mask.shape]
    axes.contour(*grid, padded.T, levels=[0.5], colors=[colour], linewidths=[line_width])


def _draw_curve(axes: Axes, history: pd.DataFrame, curve: str, theme: Mapping[str, str]) -> None:
    values = _numbers(history, curve)
    taken = np.isfinite(values)
    epochs, values = _numbers(history, "epoch")[taken], values[taken]
    marker = "o" if len(values) <= 40 else ""
    axes.plot(epochs, values, color=theme["line"], linewidth=1.8, marker=marker, markersize=3.2, clip_on=False)
    axes.set_title(CURVES[curve], loc="left", fontsize=10.5, fontweight="bold", color=theme["text"])
    axes.set_xlabel("epoch", fontsize=9, color=theme["text"])
    axes.tick_params(colors=theme["text"], labelsize=8.5, length=0)
    axes.grid(color=theme["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.spines[:].set_visible(False)
    if curve == "lr":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.yaxis.get_offset_text().set(color=theme["text"], fontsize=8.5)
    if curve == "val_dice":
        best = int(np.argmax(values))
        axes.plot(epochs[best], values[best], "o", color=theme["mark"], markersize=6.5, clip_on=False, zorder=5)
        axes.set_title(
            f"best {values[best]:.4f} at epoch {epochs[best]:g}", loc="right", fontsize=9, color=theme["mark"]
        )


def _numbers(history: pd.DataFrame, column: str) -> np.ndarray:
    return history[column].to_numpy(dtype=np.float64, na_value=np.nan)


def figure_png(figure: Figure, **options: Any) -> bytes:
    """A figure as PNG; `options` are those of `Figure.savefig`."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # No software and date in the file: the same case gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None}, **options)
    return buffer.getvalue()
