"""Volumes to what the network sees (centre block or whole volume), and predictions back to their own grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.data.case import MASK_ENDING, Case, split_volume_name
from src.data.case_files import read_case
from src.data.geometry import Geometry
from src.data.resampling import class_fractions, half_filled, largest_class, resample
from src.data.volume_files import write_volume
from src.data.zoom import View
from src.errors import DataError, UserError


@dataclass(frozen=True, eq=False)
class Sample:
    """One case as the network sees it.

    Attributes:
        case_id: the case's name.
        image: (X, Y, Z) float32, z-scored: the centre block of VolSize voxels, or with patches the whole volume.
        label: (X, Y, Z) uint8 of 0 .. classes - 1, or None.
        block: grid of image and label.
        native: grid of the volume on disk.
        cropped_foreground: share of the label's foreground voxels that lie outside the block, 0 to 1.
        foreground_ml: volume of the label's foreground, all classes above 0, on the native grid, millilitres.
    """

    case_id: str
    image: np.ndarray
    label: np.ndarray | None
    block: Geometry
    native: Geometry
    cropped_foreground: float = 0.0
    foreground_ml: float = 0.0


class DataManager:
    """Preprocessing of a recipe, both ways.

    Args:
        spacing: of the network's block, mm (x, y, z); `dstRes` in the config.
        volume_size: of the network's block, voxels (x, y, z); `VolSize` in the config.
        normalise_direction: resample to the identity direction; `normDir` in the config.
        intensity_percentiles: image percentiles that become 0 and 1; voxels beyond are clipped.
        classes: of labels and probabilities, background included.
        whole: keep the whole volume, padded to at least `volume_size`, in place of its centre block; `patches` in the
            config.
        zoom_ml: millilitres that the foreground is scaled to for further looks, see `zoom.py`; 0 for none.

    Raises:
        UserError: a value makes no sense.
    """

    zoom_ml = 0.0  # of the managers of other data sets, which take one look

    def __init__(
        self,
        spacing: Sequence[float],
        volume_size: Sequence[int],
        normalise_direction: bool = False,
        intensity_percentiles: Sequence[float] = (0.0, 100.0),
        classes: int = 2,
        whole: bool = False,
        zoom_ml: float = 0.0,
    ):
        if len(spacing) != 3 or min(spacing) <= 0:
            raise UserError(f"dstRes is {list(spacing)}, expected three spacings above 0 mm (x, y, z)")
        if len(volume_size) != 3 or any(int(count) != count or count < 1 for count in volume_size):
            raise UserError(f"VolSize is {list(volume_size)}, expected three whole numbers of voxels (x, y, z)")
        if len(intensity_percentiles) != 2 or not 0 <= intensity_percentiles[0] < intensity_percentiles[1] <= 100:
            raise UserError(f"intensity_percentiles is {list(intensity_percentiles)}, expected two rising "
                            "numbers from 0 to 100, e.g. [0.5, 99.5]")
        if int(classes) != classes or not 2 <= classes <= 255:
            raise UserError(f"classes is {classes}, expected a whole number from 2 (background and one more) to 255")
        self.spacing = tuple(float(value) for value in spacing)
        self.volume_size = tuple(int(count) for count in volume_size)
        self.normalise_direction = bool(normalise_direction)
        self.intensity_percentiles = tuple(float(value) for value in intensity_percentiles)
        self.classes = int(classes)
        self.whole = bool(whole)
        self.zoom_ml = float(zoom_ml)

    @classmethod
    def from_config(cls, cfg: Any) -> "DataManager":
        """Take `dstRes`, `VolSize`, `normDir`, `intensity_percentiles`, `classes`, `patches`, `zoom_ml` from a recipe.

        Recipes and bundles of earlier versions lack the last three: two classes, the centre block, one look.
        """
        return cls(cfg.dstRes, cfg.VolSize, cfg.normDir, cfg.intensity_percentiles, getattr(cfg, "classes", 2),
                   getattr(cfg, "patches", False), getattr(cfg, "zoom_ml", 0.0))

    def block_geometry(self, native: Geometry, view: View | None = None) -> Geometry:
        """Return the grid of what the network sees of a volume: of its centre block, or of all of it, padded evenly.

        With a view, that of the view's block.
        """
        if view is not None:
            return native.block_around(view.centre, np.multiply(self.spacing, view.scale), self.volume_size,
                                       self.normalise_direction)
        grid = native.regrid(self.spacing, self.volume_size, self.normalise_direction)
        return grid if self.whole else grid.centre_block(self.volume_size)[0]

    def preprocess(self, image: np.ndarray, native: Geometry, view: View | None = None) -> tuple[np.ndarray, Geometry]:
        """Turn a volume into the network's input.

        Intensities are clipped to the percentiles and brought to [0, 1], resampled linearly onto the block (0 outside
        the volume), and z-scored with mean and standard deviation of the block's voxels above 0.

        Args:
            image: (x, y, z) voxels of any number type.
            native: their grid.
            view: of the volume; by default its centre block, or with `whole` all of it.

        Returns:
            Block (X, Y, Z) float32, and the block's grid, see `block_geometry`.

        Raises:
            DataError: the image has no contrast in the block, so it cannot be scaled.
        """
        block_grid = self.block_geometry(native, view)
        block = resample(self._rescale(image), native, block_grid)
        foreground = block[block > 0]
        deviation = float(foreground.std(dtype=np.float64)) if foreground.size else 0.0
        if deviation == 0:
            if self.whole:
                raise DataError([f"no contrast in the volume at {self.spacing} mm; check the image, or make dstRes "
                                 "smaller"])
            raise DataError([f"no contrast in the centre block of {self.volume_size} voxels at {self.spacing} mm; "
                             "check the image, or enlarge VolSize"])
        mean = float(foreground.mean(dtype=np.float64))
        return ((block - np.float32(mean)) / np.float32(deviation)).astype(np.float32), block_grid

    def label_fraction(self, label: np.ndarray, native: Geometry) -> np.ndarray:
        """Resample a label linearly onto the block.

        Args:
            label: (x, y, z) of 0 .. classes - 1.
            native: its grid.

        Returns:
            With two classes the share of each voxel that is foreground, (X, Y, Z) float32 from 0 to 1; with more the
            shares of all classes, (C, X, Y, Z) float32, which sum to 1.
        """
        block = self.block_geometry(native)
        if self.classes == 2:
            return resample((label > 0.5).astype(np.float32), native, block)
        return class_fractions(label, native, block, self.classes)

    def preprocess_label(self, label: np.ndarray, native: Geometry) -> np.ndarray:
        """Resample a label onto the block, each voxel to the class that fills most of it; (X, Y, Z) uint8.

        Voxels that are foreground by exactly one half count as foreground: they are common when spacings are multiples
        of each other, and counting them out shrinks thin structures. With more than two classes a foreground class
        that fills as much of a voxel as the background has it in the same way; see `resampling.largest_class`.
        """
        fraction = self.label_fraction(label, native)
        return half_filled(fraction) if self.classes == 2 else largest_class(fraction)

    def read_preprocessed(self, case: Case) -> tuple[np.ndarray, np.ndarray | None, Geometry, np.ndarray, Geometry]:
        """Return what `read_case` gives (image, label or None, grid), then the image's block and the block's grid.

        Raises:
            DataError: every problem of the case, each beginning with the case id.
        """
        image, label, native = read_case(case, self.classes)
        try:
            block_image, block = self.preprocess(image, native)
        except DataError as error:
            raise DataError([f"{case.case_id}: {case.image_path}: {problem}" for problem in error.problems]) from None
        return image, label, native, block_image, block

    def load(self, case: Case) -> Sample:
        """Read and preprocess one case.

        Raises:
            DataError: every problem of the case, each beginning with the case id.
        """
        _, label, native, block_image, block = self.read_preprocessed(case)
        if label is None:
            return Sample(case.case_id, block_image, None, block, native)
        points = native.index_to_point(np.argwhere(label))
        cropped = float(1 - block.contains(points).mean()) if len(points) else 0.0
        millilitres = len(points) * native.voxel_volume / 1000
        return Sample(case.case_id, block_image, self.preprocess_label(label, native), block, native, cropped,
                      millilitres)

    def load_label(self, case: Case) -> Sample:
        """Read and preprocess the label of a case; other data sets leave the image out, for a rank without need of it.

        Raises:
            DataError: as `load`.
        """
        return self.load(case)

    def paste_back(self, probability: np.ndarray, block: Geometry, native: Geometry) -> np.ndarray:
        """Bring a block's probabilities to the volume's own grid, linearly; all is background outside the block.

        Args:
            probability: of the foreground (X, Y, Z), or of every class (C, X, Y, Z), on the grid `block`.
            block: as `preprocess` returned it.
            native: the volume's grid.

        Returns:
            (x, y, z) or (C, x, y, z) float32.
        """
        probability = np.asarray(probability, np.float32)
        if probability.ndim == 3:
            return resample(probability, block, native)
        pasted = np.empty((len(probability), *native.size), np.float32)
        for number, part in enumerate(probability):
            pasted[number] = resample(part, block, native, outside=float(number == 0))
        return pasted

    def region(self, case: Case) -> np.ndarray | None:
        """Return where voxels of a case count, (x, y, z) bool on its own grid; None, as here, for everywhere."""
        return None

    def mask_paths(self, folder: Path, case: Case) -> list[Path]:
        """Return the file of a case's mask: CASE_test.mhd, or of a case id that has a suffix CASE_test.SUFFIX."""
        stem, suffix = split_volume_name(case.case_id)
        return [Path(folder) / f"{stem}{MASK_ENDING}{suffix or '.mhd'}"]

    def write_mask(self, folder: Path, case: Case, mask: np.ndarray, native: Geometry) -> list[Path]:
        """Write a predicted mask (x, y, z) uint8 of class numbers on the image's grid; return its `mask_paths`.

        Raises:
            UserError: it cannot be written.
        """
        (path,) = self.mask_paths(folder, case)
        write_volume(path, mask, native)
        return [path]

    def _rescale(self, image: np.ndarray) -> np.ndarray:
        # Wide types go through float64: float32 would merge neighbouring values far from 0.
        values: np.ndarray = image.astype(np.float32 if np.can_cast(image.dtype, np.float32) else np.float64)
        low, high = self.intensity_percentiles
        bottom = float(values.min() if low == 0 else np.percentile(values, low))
        top = float(values.max() if high == 100 else np.percentile(values, high))
        if not top > bottom:
            raise DataError([f"no contrast: the intensity percentiles {low:g} and {high:g} are both {top:g}; "
                             "check the image, or widen intensity_percentiles"])
        np.clip(values, bottom, top, out=values)
        values -= bottom
        values /= top - bottom
        return values.astype(np.float32, copy=False)
