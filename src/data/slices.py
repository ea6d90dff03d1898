"""Pictures, and stacks of them, to what a 2-D network sees, and predictions back to their own grid.

A case is a volume whose slices along z are its pictures; a single picture is a volume of one slice. Grids have a
spacing of 1, so that every distance is in pixels.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from src.data.case import MASK_ENDING, Case
from src.data.data_manager import DataManager, Sample
from src.data.geometry import Geometry
from src.data.picture_files import write_picture
from src.data.resampling import resample, resize_nearest
from src.errors import DataError

EVEN_SHARE = 0.1  # spread evenly over a patient's slices, in shares of its mask area


class SliceManager(DataManager):
    """Preprocessing of pictures, both ways: here of one a case, resized as a whole and z-scored.

    Args:
        image_size: pixels (x, y) that the network sees.
    """

    classes = 2
    channels = 1

    def __init__(self, image_size: Sequence[int]):
        self.image_size = (int(image_size[0]), int(image_size[1]))

    @classmethod
    def from_config(cls, cfg: Any) -> "SliceManager":
        """Take `image_size` from a recipe."""
        return cls(cfg["image_size"])

    @abstractmethod
    def read_pictures(self, case: Case) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Read and check a case.

        Returns:
            Pictures (C, x, y, z); label (x, y, z) uint8 of {0, 1}, or None; and `region` (x, y, z) bool, or None.

        Raises:
            DataError: every problem of the case, without the case id.
        """

    def crop_box(self, image: np.ndarray) -> tuple[slice, slice, slice]:
        """Return the part of pictures (C, x, y, z) that the network sees: here all of it."""
        x, y, z = image.shape[1:]
        return slice(0, x), slice(0, y), slice(0, z)

    def block_grid(self, box: tuple[slice, slice, slice]) -> Geometry:
        """Return the grid of the network's pictures: `image_size` pixels over the box, one slice each."""
        return grid_over([part.start for part in box], [part.stop - part.start for part in box], self.image_size)

    def normalise(self, block: np.ndarray, region: np.ndarray | None) -> None:
        """Z-score pictures (C, X, Y, Z) float32 in place, each channel over the region (X, Y, Z); 0 outside of it.

        Raises:
            DataError: a channel has no contrast.
        """
        for number, channel in enumerate(block):
            inside = channel if region is None else channel[region]
            deviation = float(inside.std(dtype=np.float64)) if inside.size else 0.0
            if deviation == 0:
                place = "the picture" if len(block) == 1 else f"channel {number + 1} of {len(block)}"
                raise DataError([f"{place} has no contrast; check it, or leave the case out"])
            channel -= np.float32(inside.mean(dtype=np.float64))
            channel /= np.float32(deviation)
            if region is not None:
                channel[~region] = 0

    def preprocess_pictures(self, image: np.ndarray, region: np.ndarray | None) -> tuple[np.ndarray, Geometry]:
        """Return the network's pictures (C, X, Y, Z) float32, each slice of them contiguous, and their grid.

        Args:
            image: (C, x, y, z).
            region: (x, y, z) bool, the pixels that count; None for all.

        Raises:
            DataError: a channel has no contrast.
        """
        box = self.crop_box(image)
        grid = self.block_grid(box)
        source = _box_geometry(box)
        pictures = np.empty((grid.size[2], len(image), grid.size[1], grid.size[0]), np.float32)
        for number, channel in enumerate(image):
            cropped = channel[box].astype(np.float32)
            pictures[:, number] = resample(cropped, source, grid).transpose(2, 1, 0)
        block = pictures.transpose(1, 3, 2, 0)
        self.normalise(block, None if region is None else resize_nearest(region, grid.size))
        return block, grid

    def block_label(self, label: np.ndarray, grid: Geometry) -> np.ndarray:
        """Bring a label (x, y, z) of pictures onto the grid of the network's: (X, Y, Z) uint8."""
        return resize_nearest(label, grid.size)

    def read_preprocessed(self, case: Case) -> tuple[np.ndarray, np.ndarray | None, Geometry, np.ndarray, Geometry]:
        """Read and check a case.

        Returns:
            One channel (x, y, z), for pictures; the label (x, y, z) uint8 of {0, 1}, or None; their grid; the network's
            input (C, X, Y, Z) float32; and its grid.

        Raises:
            DataError: every problem of the case, each beginning with the case id.
        """
        image, label, native, block, grid = self._read_all(case)
        return self.shown(image), label, native, block, grid

    def shown(self, image: np.ndarray) -> np.ndarray:
        """Return the channel (x, y, z) of pictures (C, x, y, z) that people look at."""
        return image[0]

    def load(self, case: Case) -> Sample:
        """Read and preprocess one case: `image` is (C, X, Y, Z) float32, `label` (X, Y, Z) uint8.

        Raises:
            DataError: every problem of the case, each beginning with the case id.
        """
        image, label, native, block, grid = self._read_all(case)
        if label is None:
            return Sample(case.case_id, block, None, grid, native)
        count = int(label.sum())
        cropped = 1 - int(label[self.crop_box(image)].sum()) / count if count else 0.0
        return Sample(case.case_id, block, self.block_label(label, grid), grid, native, cropped,
                      count * native.voxel_volume / 1000)

    def paste_back(self, probability: np.ndarray, block: Geometry, native: Geometry) -> np.ndarray:
        """Bring the network's probabilities (X, Y, Z) to the pictures' own grid, (x, y, z) float32, nearest pixel."""
        return resize_nearest(np.asarray(probability, np.float32), native.size)

    def mask_paths(self, folder: Path, case: Case) -> list[Path]:
        """Return the files of a case's predicted mask: CASE_test.png."""
        return [Path(folder) / f"{case.case_id}{MASK_ENDING}.png"]

    def write_mask(self, folder: Path, case: Case, mask: np.ndarray, native: Geometry) -> list[Path]:
        """Write a predicted mask (x, y, z) of {0, 1} as pictures of {0, 255}; return its `mask_paths`.

        Raises:
            UserError: it cannot be written.
        """
        paths = self.mask_paths(folder, case)
        for number, path in enumerate(paths):
            write_picture(path, (mask[..., number] != 0).astype(np.uint8) * 255)
        return paths

    def _read_all(self, case: Case) -> tuple[np.ndarray, np.ndarray | None, Geometry, np.ndarray, Geometry]:
        """Return pictures (C, x, y, z), label, their grid, the network's pictures and their grid."""
        try:
            image, label, region = self.read_pictures(case)
            try:
                block, grid = self.preprocess_pictures(image, region)
            except DataError as error:
                raise DataError([f"{case.image_path}: {problem}" for problem in error.problems]) from None
        except DataError as error:
            raise DataError([f"{case.case_id}: {problem}" for problem in error.problems]) from None
        return image, label, native_grid(image[0]), block, grid


def slice_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Return a sample for each slice of cases that the network sees as (C, X, Y, Z): image (C, H, W), label (H, W).

    H is Y and W is X. The arrays are views. A sample's id is `CASE:k`, k being the slice's number in the case, from 1.
    """
    return [_slice(sample, number) for sample in samples for number in range(sample.image.shape[3])]


def slice_weights(samples: Sequence[Sample], sampling: str) -> np.ndarray | None:
    """Return with which probabilities an epoch draws the samples that `slice_samples` gave.

    With `mask`, all patients are equally probable. Of one with n slices and a mask of A pixels in all, a slice with a
    of them has the share (a + 0.1 A / n) / (1.1 A); without any mask, 1 / n.

    Args:
        samples: with labels.
        sampling: `mask`, or `uniform`.

    Returns:
        (samples,) float64, the sum of which is 1; None for each sample once.
    """
    if sampling == "uniform":
        return None
    patients = [sample.case_id.rpartition(":")[0] for sample in samples]
    areas = np.array([0 if sample.label is None else np.count_nonzero(sample.label) for sample in samples], np.float64)
    weights = np.empty(len(samples))
    names, member = np.unique(patients, return_inverse=True)
    for number in range(len(names)):
        own = member == number
        total, count = areas[own].sum(), np.count_nonzero(own)
        shares = (areas[own] / total + EVEN_SHARE / count) / (1 + EVEN_SHARE) if total else 1 / count
        weights[own] = shares / len(names)
    return weights / weights.sum()


def _slice(sample: Sample, number: int) -> Sample:
    def part(grid: Geometry) -> Geometry:
        return Geometry((grid.size[0], grid.size[1], 1), grid.spacing,
                        (grid.origin[0], grid.origin[1], sample.block.origin[2] + number))

    label = None if sample.label is None else sample.label[..., number].T
    k = round(sample.block.origin[2]) + number + 1
    return replace(sample, case_id=f"{sample.case_id}:{k}", image=sample.image[..., number].transpose(0, 2, 1),
                   label=label, block=part(sample.block), native=part(sample.native), cropped_foreground=0.0,
                   foreground_ml=0.0 if label is None else np.count_nonzero(label) * sample.block.voxel_volume / 1000)


def native_grid(array: np.ndarray) -> Geometry:
    """Return the grid of an array (x, y, z) as it is stored: of pixels."""
    x, y, z = array.shape
    return Geometry((x, y, z))


def grid_over(start: Sequence[float], extent: Sequence[float], size: Sequence[int]) -> Geometry:
    """Return the grid of `size` pixels over a part of a picture that begins at pixel `start`, with all its slices."""
    counts = (*size[:2], round(extent[2]))
    spacing = [whole / count for whole, count in zip(extent, counts, strict=True)]
    origin = [first - 0.5 + step / 2 for first, step in zip(start, spacing, strict=True)]
    x, y, z = counts
    return Geometry((x, y, z), (spacing[0], spacing[1], 1.0), (origin[0], origin[1], origin[2]))


def _box_geometry(box: tuple[slice, slice, slice]) -> Geometry:
    """Return the grid of a part of a picture's own pixels."""
    x, y, z = box
    return Geometry((x.stop - x.start, y.stop - y.start, z.stop - z.start), origin=(x.start, y.start, z.start))
