"""Small generated data sets of pictures, in the three layouts of the 2-D recipes; what is drawn can be learned."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage


def make_lgg(folder: Path, patients: int = 3, slices: int = 4, size: int = 48, seed: int = 0) -> list[str]:
    """Write `TCGA_XX_0001_20000101/TCGA_XX_0001_20000101_1.tif` and `..._1_mask.tif` below `folder`, and so on.

    Each patient is a brain, an ellipsoid on black, with a round lesion that is bright in the second channel (FLAIR).
    The last slice of a patient has none of it.

    Returns:
        The patients' folder names, sorted.
    """
    names = [f"TCGA_XX_{number:04d}_20000101" for number in range(1, patients + 1)]
    for number, name in enumerate(names):
        rng = np.random.default_rng([seed, number])
        row, column, depth = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size),
                                         np.linspace(-0.6, 0.6, slices), indexing="ij")
        brain = (row / 0.8) ** 2 + (column / 0.7) ** 2 + depth**2 < 1
        centre = rng.uniform(-0.25, 0.25, 2)
        distance = np.hypot(row - centre[0], column - centre[1])
        lesion = brain & (distance < 0.3) & (np.arange(slices) < max(slices - 1, 1))
        tissue = brain * rng.normal(100, 6, (3, size, size, slices))
        tissue[1] += 90 * lesion
        image = np.clip(tissue, 0, 255).astype(np.uint8)
        for k in range(slices):
            _save(folder / name / f"{name}_{k + 1}.tif", image[..., k].transpose(1, 2, 0))
            _save(folder / name / f"{name}_{k + 1}_mask.tif", lesion[..., k].astype(np.uint8) * 255)
    return names


def make_drive(folder: Path, training: int = 3, test: int = 2, size: tuple[int, int] = (60, 64),
               seed: int = 0) -> tuple[list[str], list[str]]:
    """Write `training/` and `test/` with `images/`, `1st_manual/` and `mask/`: a dark vessel tree in a round field.

    As in the real data set, numbers of test pictures are 01, 02, ... and of training pictures 21, 22, ...; labels and
    fields of view are GIFs with a palette.

    Args:
        folder: where to.
        training, test: pictures.
        size: (width, height), pixels.
        seed: of all of it.

    Returns:
        The picture names of the two parts, sorted.
    """
    names: dict[str, list[str]] = {"training": [], "test": []}
    for part, first, count in (("training", 21, training), ("test", 1, test)):
        for number in range(first, first + count):
            rng = np.random.default_rng([seed, number])
            width, height = size
            x, y = np.arange(width)[np.newaxis], np.arange(height)[:, np.newaxis]
            field = (x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2 < (0.47 * min(size)) ** 2
            vessel = _vessels(size, rng) & field
            grey = np.where(vessel, 90, 150) + rng.normal(0, 5, vessel.shape)
            colour = np.clip(grey[..., np.newaxis] * np.array([1.3, 0.9, 0.5]), 0, 255) * field[..., np.newaxis]
            name = f"{number:02d}_{part}.tif"
            _save(folder / part / "images" / name, colour.astype(np.uint8))
            _save_palette(folder / part / "1st_manual" / f"{number:02d}_manual1.gif", vessel)
            _save_palette(folder / part / "mask" / f"{number:02d}_{part}_mask.gif", field)
            names[part].append(name)
    return names["training"], names["test"]


def make_em(folder: Path, slices: int = 5, size: int = 48, stack: bool = False, seed: int = 0) -> list[str]:
    """Write cells (255) parted by dark membranes (0): PNG pairs `image/00.png`, `label/00.png`, or two TIFF stacks.

    Returns:
        The names of the cases as split files have them: `00.png`, or `train-volume.tif:00`, and so on.
    """
    images, labels = [], []
    for number in range(slices):
        rng = np.random.default_rng([seed, number])
        label = _cells(size, rng)
        images.append(np.clip(np.where(label, 170, 60) + rng.normal(0, 10, label.shape), 0, 255).astype(np.uint8))
        labels.append(label.astype(np.uint8) * 255)
    if stack:
        _save_stack(folder / "train-volume.tif", images)
        _save_stack(folder / "train-labels.tif", labels)
        return [f"train-volume.tif:{number:02d}" for number in range(slices)]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        _save(folder / "image" / f"{number:02d}.png", image)
        _save(folder / "label" / f"{number:02d}.png", label)
    return [f"{number:02d}.png" for number in range(slices)]


def _vessels(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a tree of bending branches, (height, width) bool: each forks into two thinner ones."""
    picture = Image.new("L", size)
    draw = ImageDraw.Draw(picture)

    def grow(x: float, y: float, angle: float, width: int) -> None:
        for _ in range(6):
            angle += rng.normal(0, 0.2)
            end = (x + math.cos(angle) * min(size) / 20, y + math.sin(angle) * min(size) / 20)
            draw.line([(x, y), end], fill=255, width=width)
            x, y = end
        if width > 1:
            grow(x, y, angle + rng.uniform(0.3, 0.8), width - 1)
            grow(x, y, angle - rng.uniform(0.3, 0.8), width - 1)

    for angle in (0.5, 2.6, 4.7):
        grow(size[0] / 2, size[1] / 2, angle, min(max(min(size) // 25, 3), 4))
    return np.array(picture) > 0


def _cells(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return where the cells are, (size, size) bool: Voronoi regions of random points, apart by about two pixels."""
    points = np.zeros((size, size), bool)
    points[tuple(rng.integers(0, size, (2, 10)))] = True
    _, (row, column) = ndimage.distance_transform_edt(~points, return_indices=True)
    region = row * size + column
    return ndimage.maximum_filter(region, 3) == ndimage.minimum_filter(region, 3)


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _save_palette(path: Path, mask: np.ndarray) -> None:
    """Save a mask as a GIF of palette indexes 0 and 1, which stand for black and white."""
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette([0, 0, 0, 255, 255, 255])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _save_stack(path: Path, pages: list[np.ndarray]) -> None:
    first, *rest = [Image.fromarray(page) for page in pages]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest)
