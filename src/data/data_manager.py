"""MetaImage and NIfTI volumes to network blocks, and predictions back to the volume's own grid.

The only file that knows SimpleITK and its (z, y, x) array order; everywhere else arrays are (x, y, z).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from src.data import metaimage, nifti
from src.data.case import VOLUME_SUFFIXES, Case, split_volume_name
from src.data.geometry import Geometry
from src.errors import DataError, UserError
from src.files import atomic_path


@dataclass(frozen=True, eq=False)
class Sample:
    """One case as the network sees it.

    Attributes:
        case_id: the case's name.
        image: (X, Y, Z) float32 block, z-scored.
        label: (X, Y, Z) uint8 block of {0, 1}, or None.
        block: grid of image and label.
        native: grid of the volume on disk.
        cropped_foreground: share of the label's foreground voxels that lie outside the block, 0 to 1.
        foreground_ml: volume of the label's foreground on the native grid, millilitres.
    """

    case_id: str
    image: np.ndarray
    label: np.ndarray | None
    block: Geometry
    native: Geometry
    cropped_foreground: float = 0.0
    foreground_ml: float = 0.0


def read_volume(path: Path, channels: int = 1) -> tuple[np.ndarray, Geometry]:
    """Read a MetaImage or NIfTI volume, checked first.

    Args:
        path: of the file.
        channels: above 1 for a 4-D NIfTI file with as many volumes along its last axis.

    Returns:
        The voxels (x, y, z), or (channels, x, y, z), in the type they are stored in, and their grid.

    Raises:
        DataError: the file is missing, damaged, inconsistent, of an unknown format, or holds non-finite voxels.
    """
    path = Path(path)
    suffix = split_volume_name(path.name)[1].lower()
    if not suffix:
        raise DataError([f"{path}: no known volume format, expected one of {', '.join(VOLUME_SUFFIXES)}; "
                         "convert the volume, e.g. with SimpleITK"])
    is_meta = suffix in metaimage.SUFFIXES
    if problems := metaimage.find_problems(path) if is_meta else nifti.find_problems(path, channels):
        raise DataError(problems)
    try:
        image = whole = sitk.ReadImage(str(path))
        if image.GetDimension() > 3:  # NIfTI may store trailing dimensions of one voxel
            image = image[(slice(None),) * 3 + (0,) * (image.GetDimension() - 3)]
        geometry = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise DataError([f"{path}: SimpleITK cannot read it ({reason}); write the file anew"]) from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise DataError([f"{path}: {image.GetNumberOfComponentsPerPixel()} channels, expected 1; extract one channel"])
    array = sitk.GetArrayFromImage(image if channels == 1 else whole)
    array = array.transpose((2, 1, 0) if channels == 1 else (0, 3, 2, 1))
    if array.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(array)))):
        raise DataError([f"{path}: {bad} of {array.size} voxels are not finite (NaN or infinity); "
                         "replace them, or leave the case out"])
    return array, geometry


def write_volume(path: Path, array: np.ndarray, geometry: Geometry, compress: bool = True) -> None:
    """Write a volume; the suffix chooses the format, and the file (pair) appears whole or not at all.

    Args:
        path: target; `.mhd` comes with a `.zraw` (compressed) or `.raw` beside it.
        array: (x, y, z) voxels; bool is stored as uint8.
        geometry: the voxels' grid.
        compress: whether voxels are stored compressed; `.nii` never is, `.nii.gz` always.

    Raises:
        ValueError: array and geometry differ in size, or the suffix is unknown.
        UserError: the file cannot be written, as for want of permission or space.
    """
    path = Path(path)
    suffix = split_volume_name(path.name)[1]
    if array.shape != geometry.size or not suffix:
        raise ValueError(f"{path}: array of shape {array.shape} for a grid of {geometry.size}")
    image = _to_image(array.astype(np.uint8) if array.dtype == bool else array, geometry)
    write = _write_pair if suffix.lower() == ".mhd" else _write_single
    try:
        write(path, image, compress)
    except (RuntimeError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: the volume cannot be written ({reason}); "
                        "check the path, its permissions and the free space") from error


def find_label_problems(path: Path) -> list[str]:
    """Say what is wrong with a label alone, for a case whose image is missing; empty when it is sound."""
    problems: list[str] = []
    _read_label(path, problems)
    return problems


def read_case(case: Case) -> tuple[np.ndarray, np.ndarray | None, Geometry]:
    """Read a case's volumes and check that they belong together.

    Returns:
        Image (x, y, z) as stored, label (x, y, z) uint8 of {0, 1} or None, and their grid.

    Raises:
        DataError: every problem of the case, each beginning with the case id.
    """
    problems: list[str] = []
    image, native = _try_read(case.image_path, problems)
    if image is not None and image.min() == image.max():
        problems.append(f"{case.image_path}: the image is constant (every voxel is {image.flat[0]}); "
                        "export it again, or leave the case out")
    label = None
    if case.label_path is not None:
        label, grid = _read_label(case.label_path, problems)
        if native and grid and (differences := native.differences(grid)):
            problems.append(f"{case.label_path}: the label is not on the grid of {case.image_path}: "
                            f"{'; '.join(differences)}; resample the label to the image, or correct its header")
    if problems or image is None or native is None:
        raise DataError([f"{case.case_id}: {problem}" for problem in problems])
    return image, label, native


class DataManager:
    """Preprocessing of a recipe, both ways.

    Args:
        spacing: of the network's block, mm (x, y, z); `dstRes` in the config.
        volume_size: of the network's block, voxels (x, y, z); `VolSize` in the config.
        normalise_direction: resample to the identity direction; `normDir` in the config.
        intensity_percentiles: image percentiles that become 0 and 1; voxels beyond are clipped.

    Raises:
        UserError: a value makes no sense.
    """

    def __init__(
        self,
        spacing: Sequence[float],
        volume_size: Sequence[int],
        normalise_direction: bool = False,
        intensity_percentiles: Sequence[float] = (0.0, 100.0),
    ):
        if len(spacing) != 3 or min(spacing) <= 0:
            raise UserError(f"dstRes is {list(spacing)}, expected three spacings above 0 mm (x, y, z)")
        if len(volume_size) != 3 or any(int(count) != count or count < 1 for count in volume_size):
            raise UserError(f"VolSize is {list(volume_size)}, expected three whole numbers of voxels (x, y, z)")
        if len(intensity_percentiles) != 2 or not 0 <= intensity_percentiles[0] < intensity_percentiles[1] <= 100:
            raise UserError(f"intensity_percentiles is {list(intensity_percentiles)}, expected two rising "
                            "numbers from 0 to 100, e.g. [0.5, 99.5]")
        self.spacing = tuple(float(value) for value in spacing)
        self.volume_size = tuple(int(count) for count in volume_size)
        self.normalise_direction = bool(normalise_direction)
        self.intensity_percentiles = tuple(float(value) for value in intensity_percentiles)

    @classmethod
    def from_config(cls, cfg: Any) -> "DataManager":
        """Take `dstRes`, `VolSize`, `normDir` and `intensity_percentiles` from a recipe."""
        return cls(cfg.dstRes, cfg.VolSize, cfg.normDir, cfg.intensity_percentiles)

    def block_geometry(self, native: Geometry) -> Geometry:
        """Place the network's block in the middle of a volume."""
        grid = native.regrid(self.spacing, self.volume_size, self.normalise_direction)
        return grid.centre_block(self.volume_size)[0]

    def preprocess(self, image: np.ndarray, native: Geometry) -> tuple[np.ndarray, Geometry]:
        """Turn a volume into the network's input.

        Intensities are clipped to the percentiles and brought to [0, 1], resampled linearly onto the block (0 outside
        the volume), and z-scored with mean and standard deviation of the block's voxels above 0.

        Args:
            image: (x, y, z) voxels of any number type.
            native: their grid.

        Returns:
            Block (X, Y, Z) float32, and the block's grid.

        Raises:
            DataError: the image has no contrast, so it cannot be scaled.
        """
        block_grid = self.block_geometry(native)
        block = _resample(self._rescale(image), native, block_grid)
        foreground = block[block > 0]
        deviation = float(foreground.std(dtype=np.float64)) if foreground.size else 0.0
        if deviation == 0:
            raise DataError([f"no contrast in the centre block of {self.volume_size} voxels at {self.spacing} mm; "
                             "check the image, or enlarge VolSize"])
        mean = float(foreground.mean(dtype=np.float64))
        return ((block - np.float32(mean)) / np.float32(deviation)).astype(np.float32), block_grid

    def label_fraction(self, label: np.ndarray, native: Geometry) -> np.ndarray:
        """Resample a label's foreground (> 0.5) linearly onto the block; (X, Y, Z) float32 from 0 to 1."""
        return _resample((label > 0.5).astype(np.float32), native, self.block_geometry(native))

    def preprocess_label(self, label: np.ndarray, native: Geometry) -> np.ndarray:
        """Resample a label onto the block and threshold it at 0.5; (X, Y, Z) uint8 of {0, 1}.

        Voxels of exactly 0.5 count as foreground: they are common when spacings are multiples of each other, and
        counting them out shrinks thin structures.
        """
        return (self.label_fraction(label, native) >= 0.5).astype(np.uint8)

    def read_preprocessed(self, case: Case) -> tuple[np.ndarray, np.ndarray | None, Geometry, np.ndarray, Geometry]:
        """Return what `read_case` gives (image, label or None, grid), then the image's block and the block's grid.

        Raises:
            DataError: every problem of the case, each beginning with the case id.
        """
        image, label, native = read_case(case)
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
        """Bring a block's probabilities to the volume's own grid, linearly; 0 outside the block.

        Args:
            probability: (X, Y, Z) on the grid `block`.
            block: as `preprocess` returned it.
            native: the volume's grid.

        Returns:
            (x, y, z) float32.
        """
        return _resample(np.asarray(probability, np.float32), block, native)

    def _rescale(self, image: np.ndarray) -> np.ndarray:
        # Wide types go through float64: float32 would merge neighbouring values far from 0.
        values: np.ndarray = image.astype(np.float32 if np.can_cast(image.dtype, np.float32) else np.float64)
        low, high = self.intensity_percentiles
        bottom = float(values.min() if low == 0 else np.percentile(values, low))
        top = float(values.max() if high == 100 else np.percentile(values, high))
        if not top > bottom:
            raise DataError([f"no contrast: the intensity percentiles {low:g} and {high:g} are both {top:g}; "
                             "check the image, or widen intensity_percentiles"])
        return ((np.clip(values, bottom, top) - bottom) / (top - bottom)).astype(np.float32)


def _try_read(path: Path, problems: list[str]) -> tuple[np.ndarray | None, Geometry | None]:
    try:
        return read_volume(path)
    except DataError as error:
        problems += error.problems
        return None, None


def _read_label(path: Path, problems: list[str]) -> tuple[np.ndarray | None, Geometry | None]:
    stored, grid = _try_read(path, problems)
    if stored is None:
        return None, None
    problems += [f"{path}: {problem}" for problem in _label_problems(stored)]
    return (stored > 0.5).astype(np.uint8), grid


def _label_problems(label: np.ndarray) -> list[str]:
    values = np.unique(label)
    foreground = values[values != 0]
    if len(foreground) <= 1 and np.all(foreground > 0.5):
        return []
    listed = ", ".join(f"{value:g}" for value in values[:6]) + (", …" if len(values) > 6 else "")
    return [f"label values are {{{listed}}}, expected 0 and one foreground value above 0.5; "
            "make the label binary"]


def _write_single(path: Path, image: sitk.Image, compress: bool) -> None:
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=compress)
        # SimpleITK leaves a NIfTI file short on a full disk without an error.
        if temporary.name.lower().endswith(nifti.SUFFIXES) and nifti.find_problems(temporary):
            raise OSError("only a part was stored")


def _write_pair(path: Path, image: sitk.Image, compress: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A header names its voxel file, so the pair is written under its final names in a folder of its own.
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as folder:
        sitk.WriteImage(image, str(Path(folder, path.name)), useCompression=compress)
        voxels = next(file for file in Path(folder).iterdir() if file.name != path.name)
        # An old header must never stand beside new voxels.
        path.unlink(missing_ok=True)
        for file in (voxels, Path(folder, path.name)):
            with atomic_path(path.with_name(file.name)) as temporary:
                file.replace(temporary)


def _to_image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def _resample(array: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Interpolate float32 voxels linearly onto another grid, 0 outside; the result is C-contiguous."""
    if array.shape != source.size:
        raise ValueError(f"array of shape {array.shape} for a grid of {source.size}")
    resampled = sitk.Resample(_to_image(array, source), target.size, sitk.Transform(3, sitk.sitkIdentity),
                              sitk.sitkLinear, target.origin, target.spacing, target.direction, 0.0, sitk.sitkFloat32)
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(resampled).transpose(2, 1, 0))
