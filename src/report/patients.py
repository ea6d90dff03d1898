"""What the LGG recipe shows of its patients: a bar of Dice each, every slice with outlines, and an animation."""

from collections.abc import Collection, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from src.files import atomic_path
from src.metrics.cases import Row
from src.metrics.masks import mask_pair
from src.report.figures import DPI, figure_png
from src.report.montage import grey_window

PICTURES = "predictions"  # folder of the slices and animations, below the results
CHART = "dsc.png"
RED, GREEN = (255, 45, 45), (37, 211, 102)
SMALLEST_EDGE = 512  # pixels of a picture's longer edge, which smaller slices are enlarged to
FRAME_MS = 200
LAST_FRAME_MS = 1000
_TEXT, _GRID, _BAR = "#3b4452", "#e3e7ee", "#8fb1e8"
_SHADES = (192, 32, 32)  # of grey, red and green in an animation's palette


def write_patients(folder: str | PathLike, case_id: str, image: np.ndarray, mask: np.ndarray,
                   reference: np.ndarray) -> list[Path]:
    """Write every slice of a patient as `predictions/PATIENT-k.png`, k from 1, and all as `predictions/PATIENT.gif`.

    See `slice_pictures` for what they show.

    Args:
        folder: of the results; made where it is missing.
        case_id: the patient.
        image, mask, reference: as for `slice_pictures`.

    Returns:
        The files, the animation last.

    Raises:
        ValueError: as `slice_pictures`.
    """
    pictures = [Image.fromarray(picture) for picture in slice_pictures(image, mask, reference)]
    for k, picture in enumerate(pictures, 1):
        _write_caption(picture, f"{case_id}   {k} / {len(pictures)}")
    paths = [Path(folder) / PICTURES / f"{case_id}-{k}.png" for k in range(1, len(pictures) + 1)]
    for path, picture in zip(paths, pictures, strict=True):
        with atomic_path(path) as temporary:
            picture.save(temporary, format="PNG", optimize=True)
    palette = _palette()
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    paths.append(Path(folder) / PICTURES / f"{case_id}.gif")
    with atomic_path(paths[-1]) as temporary:
        frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], loop=0, optimize=False,
                       duration=[FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS])
    return paths


def write_patient_chart(folder: str | PathLike, rows: Sequence[Row]) -> None:
    """Write `dsc.png` (see `dsc_png`), and remove pictures of patients that are not among the rows."""
    with atomic_path(Path(folder) / CHART) as temporary:
        temporary.write_bytes(dsc_png(rows))
    _remove_pictures(Path(folder), {row["case_id"] for row in rows})


def remove_patients(folder: str | PathLike) -> None:
    """Remove what `write_patients` and `write_patient_chart` wrote."""
    (Path(folder) / CHART).unlink(missing_ok=True)
    _remove_pictures(Path(folder), ())


def slice_pictures(image: np.ndarray, mask: np.ndarray, reference: np.ndarray) -> list[np.ndarray]:
    """Every slice with the predicted outline in red and the true one in green.

    Slices are enlarged by a whole number, so that the longer edge has `SMALLEST_EDGE` pixels at least and a pixel two.
    The red line runs along the inside of the predicted mask's border, the green one along the outside of the true
    one's, so that neither hides the other where they agree. Black and white are those of `grey_window` of the volume.

    Args:
        image: (X, Y, Z) intensities; pixels that are not finite are shown black.
        mask, reference: (X, Y, Z); non-zero is foreground.

    Returns:
        (H, W, 3) uint8 a slice; x runs to the right, y down.

    Raises:
        ValueError: the shapes differ, or a mask is not a mask.
    """
    mask, reference = mask_pair(mask, reference)
    if np.shape(image) != mask.shape or mask.ndim != 3 or not mask.size:
        raise ValueError(f"the image has shape {np.shape(image)} and the masks {mask.shape}; expected one (X, Y, Z)")
    image = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = grey_window(image)
    grey = (np.clip((image - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    scale = max(2, -(-SMALLEST_EDGE // max(mask.shape[:2])))
    line = scale // 2
    pictures = []
    for z in range(mask.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(grey[:, :, z].T))
        size = (plane.width * scale, plane.height * scale)
        picture = np.stack([np.asarray(plane.resize(size, Image.Resampling.BICUBIC))] * 3, axis=-1)
        true, predicted = (np.kron(part[:, :, z].T, np.ones((scale, scale), dtype=bool)) for part in (reference, mask))
        picture[_grown(true, line) & ~true] = GREEN
        picture[predicted & _grown(~predicted, line)] = RED
        pictures.append(picture)
    return pictures


def dsc_png(rows: Sequence[Row]) -> bytes:
    """Dice of every patient as horizontal bars, the best on top, a red line at the mean and a green one at the median.

    Args:
        rows: case_id and dice, 0 to 1.

    Raises:
        ValueError: no row, or a Dice that is not from 0 to 1; names the case.
    """
    if not rows:
        raise ValueError("no patient to show; expected at least one evaluated case")
    for row in rows:
        if not 0 <= row["dice"] <= 1:
            raise ValueError(f"case {row['case_id']}: dice is {row['dice']}, expected 0 to 1")
    ordered = sorted(rows, key=lambda row: (row["dice"], row["case_id"]))
    values = np.array([row["dice"] for row in ordered], dtype=np.float64)
    figure = Figure(figsize=(8.0, 1.5 + 0.27 * len(rows)), dpi=2 * DPI, layout="constrained", facecolor="white")
    axes = figure.subplots()
    places = np.arange(len(rows))
    axes.barh(places, values, height=0.68, color=_BAR)
    for place, value in zip(places, values, strict=True):
        axes.text(1.012, place, f"{value:.3f}", va="center", ha="left", fontsize=8.5, color=_TEXT)
    # The median's line is the thinner one and in front, so that both can be seen where they are equal, as of two.
    lines = (("mean", values.mean(), "#d62728", 4.0), ("median", np.median(values), "#1a9641", 1.6))
    for name, value, colour, width in lines:
        axes.axvline(float(value), color=colour, linewidth=width, label=f"{name} {value:.4f}", zorder=3)
    axes.set_yticks(places, [row["case_id"] for row in ordered])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 11))
    axes.set_xlabel("Dice", fontsize=9.5, color=_TEXT)
    axes.set_title(f"Dice by patient, {len(rows)} patient{'s' * (len(rows) != 1)}", loc="left", fontsize=11,
                   fontweight="bold", color=_TEXT)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=2, frameon=False, fontsize=9,
                labelcolor=_TEXT)
    axes.tick_params(colors=_TEXT, labelsize=8.5, length=0)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return figure_png(figure)


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """A plane's mask and what lies within `pixels` of it, diagonals included; beyond the border is nothing."""
    return ndimage.maximum_filter(mask, 2 * pixels + 1, mode="constant", cval=False)


def _write_caption(picture: Image.Image, text: str) -> None:
    draw = ImageDraw.Draw(picture)
    size = max(12, max(picture.size) // 36)
    font = ImageFont.load_default(size)
    stroke, black, margin = max(1, size // 8), (0, 0, 0), size // 2
    draw.text((margin, margin), text, (235, 235, 235), font, stroke_width=stroke, stroke_fill=black)
    left, bottom = margin, picture.height - margin
    for word, colour in (("prediction", RED), ("reference", GREEN)):
        draw.text((left, bottom), word, colour, font, anchor="ld", stroke_width=stroke, stroke_fill=black)
        left += round(draw.textlength(word, font)) + size


def _palette() -> Image.Image:
    """A picture whose palette has shades of grey and of both colours, so that outlines in a GIF keep theirs."""
    colours: list[int] = []
    for (red, green, blue), count in zip(((255, 255, 255), RED, GREEN), _SHADES, strict=True):
        for share in np.linspace(0, 1, count):
            colours += [round(part * share) for part in (red, green, blue)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return palette


def _remove_pictures(folder: Path, kept: Collection[str]) -> None:
    """Remove the pictures of all patients but those to keep, and the folder when nothing is left in it."""
    pictures = folder / PICTURES
    if not pictures.is_dir():
        return
    for path in pictures.iterdir():
        patient, _, number = path.stem.rpartition("-")
        if path.suffix == ".gif":
            patient, number = path.stem, "1"
        if path.suffix in (".png", ".gif") and number.isdigit() and patient not in kept:
            path.unlink()
    if not any(pictures.iterdir()):
        pictures.rmdir()
