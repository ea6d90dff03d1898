"""MSD Task01_BrainTumour: `imagesTr/BRATS_001.nii.gz` of four modalities and `labelsTr/BRATS_001.nii.gz`.

Instead of NIfTI, a file may be `.npy`: image (X, Y, Z, 4), label (X, Y, Z), taken as voxels of 1 mm.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from src.data import nifti, volume_inputs
from src.data.case import Case
from src.data.data_manager import DataManager, Sample
from src.data.geometry import Geometry
from src.data.msd import msd_layout
from src.data.resampling import resize_nearest
from src.data.volume_files import read_volume
from src.errors import DataError
from src.recipe_rules import unet3d_size_problem

MODALITIES = 4  # FLAIR, T1, T1 with contrast agent, T2
SUFFIXES = (*nifti.SUFFIXES, ".npy")


class BrainTumourManager(DataManager):
    """Preprocessing of four-channel images, both ways: intensities divided by the maximum, labels made binary.

    The network sees the whole volume; nothing is cropped or resampled, unless a size to resize to is given.

    Args:
        target_size: voxels (x, y, z) to resize to by nearest neighbour; zeros for the size on disk.
        by_modality: whether each modality is divided by its own maximum, in place of the image's.
    """

    classes = 2  # tumour of any kind, and all else

    def __init__(self, target_size: Sequence[int] = (0, 0, 0), by_modality: bool = False):
        self.target_size = tuple(int(count) for count in target_size)
        self.by_modality = by_modality
        # For messages of the data check alone: there is no block to lie outside of.
        self.volume_size, self.spacing = self.target_size, (1.0, 1.0, 1.0)

    @classmethod
    def from_config(cls, cfg: Any) -> "BrainTumourManager":
        """Take `target_size` and `normalise_by` from a recipe."""
        return cls(cfg.target_size, cfg.normalise_by == "modality")

    def read_preprocessed(self, case: Case) -> tuple[np.ndarray, np.ndarray | None, Geometry, np.ndarray, Geometry]:
        """Read and check a case.

        Returns:
            The first modality (x, y, z), for pictures; the label (x, y, z) uint8 of {0, 1}, or None; their grid; the
            network's input (4, X, Y, Z) float32 with the maximum 1; and its grid.

        Raises:
            DataError: every problem of the case, each beginning with the case id.
        """
        problems: list[str] = []
        image = label = native = None
        try:
            image, native = read_modalities(case.image_path)
        except DataError as error:
            problems += error.problems
        if case.label_path is not None:
            try:
                label = read_label(case.label_path)
            except DataError as error:
                problems += error.problems
        if image is not None and label is not None and image.shape[1:] != label.shape:
            problems.append(f"{case.label_path}: the label has {_size(label.shape)} voxels, the image "
                            f"{case.image_path} {_size(image.shape[1:])}; they have to be of one size: export the "
                            "label again")
        if image is not None:
            problems += self._image_problems(case.image_path, image)
        if problems or image is None or native is None:
            raise DataError([f"{case.case_id}: {problem}" for problem in problems])
        block = self._block_grid(native)
        return image[0], label, native, self._normalised(resize_nearest(image, block.size)), block

    def load(self, case: Case) -> Sample:
        """Read and preprocess one case: `image` is (4, X, Y, Z) float32, `label` (X, Y, Z) uint8.

        Raises:
            DataError: every problem of the case, each beginning with the case id.
        """
        _, label, native, image, block = self.read_preprocessed(case)
        if label is None:
            return Sample(case.case_id, image, None, block, native)
        millilitres = np.count_nonzero(label) * native.voxel_volume / 1000
        return Sample(case.case_id, image, resize_nearest(label, block.size), block, native,
                      foreground_ml=millilitres)

    def load_label(self, case: Case) -> Sample:
        """Read the label alone, as `load` does; the image has no voxels. For a rank that needs no image.

        Raises:
            DataError: the label cannot be read.
        """
        assert case.label_path is not None
        label = read_label(case.label_path)
        block = self._block_grid(Geometry(_three(label.shape)))
        return Sample(case.case_id, np.zeros((MODALITIES, 0, 0, 0), np.float32), resize_nearest(label, block.size),
                      block, block)

    def paste_back(self, probability: np.ndarray, block: Geometry, native: Geometry) -> np.ndarray:
        """Bring the network's probabilities (X, Y, Z) to the volume's own grid, (x, y, z) float32."""
        return resize_nearest(np.asarray(probability, np.float32), native.size)

    def _block_grid(self, native: Geometry) -> Geometry:
        """Return the grid of the network's input: the volume's own, or `target_size` voxels of the same extent."""
        if not any(self.target_size):
            return native
        spacing = native.extent / np.array(self.target_size)
        first = (np.array(native.size) - 1) / 2 * np.array(native.spacing) - (
            np.array(self.target_size) - 1) / 2 * spacing
        origin = np.array(native.origin) + native.matrix @ first
        return replace(native, size=_three(self.target_size), spacing=_three(spacing), origin=_three(origin))

    def _image_problems(self, path: Path, image: np.ndarray) -> list[str]:
        problems = []
        if not any(self.target_size) and (problem := unet3d_size_problem(image.shape[1:])):
            problems.append(f"{path}: {problem}; resize with target_size, such as --set target_size=[240,240,155]")
        for number, modality in enumerate(image):
            if modality.max() <= 0:
                problems.append(f"{path}: modality {number + 1} of {MODALITIES} has no voxel above 0; export it "
                                "again, or leave the case out")
        return problems

    def _normalised(self, image: np.ndarray) -> np.ndarray:
        highest = image.max(axis=(1, 2, 3), keepdims=True) if self.by_modality else image.max()
        return np.ascontiguousarray(image.astype(np.float32) / np.float32(highest))


def read_modalities(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read an image (4, x, y, z) in the type it is stored in, and its grid.

    Raises:
        DataError: the file is missing, damaged, of an unknown format, without four channels, or has voxels that are
            no finite numbers.
    """
    if not path.name.lower().endswith(".npy"):
        return read_volume(path, MODALITIES)
    array = _read_npy(path)
    if array.ndim != 4 or array.shape[3] != MODALITIES:
        raise DataError([f"{path}: an array of shape {array.shape}, expected (x, y, z, {MODALITIES}); join the "
                         "modalities along the last axis"])
    return array.transpose(3, 0, 1, 2), Geometry(_three(array.shape[:3]))


def read_label(path: Path) -> np.ndarray:
    """Read a label (x, y, z) as uint8: 1 for tumour of any kind, values above 0, and 0 elsewhere.

    Raises:
        DataError: the file cannot be read as a volume.
    """
    array = _read_npy(path) if path.name.lower().endswith(".npy") else read_volume(path)[0]
    if array.ndim != 3:
        raise DataError([f"{path}: an array of shape {array.shape}, expected (x, y, z); save the label alone"])
    return (array > 0).astype(np.uint8)


def find_label_problems(path: Path, classes: int | None = None) -> list[str]:
    """Say what is wrong with a label alone, of whatever classes; empty when it is sound."""
    try:
        read_label(path)
    except DataError as error:
        return error.problems
    return []


LAYOUT = msd_layout(SUFFIXES, find_label_problems)
all_names, find_cases, scan_cases = LAYOUT.all_names, LAYOUT.find_cases, LAYOUT.scan_cases
case_id, find_inputs = LAYOUT.case_id, volume_inputs.find_inputs


def _read_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError([f"{path}: no such file; check the name and the folder"]) from error
    except (OSError, ValueError, EOFError) as error:
        reason = (str(error).strip().splitlines() or ["empty"])[0]
        raise DataError([f"{path}: cannot be read as an array ({reason}); write it again with numpy.save"]) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise DataError([f"{path}: holds no array of numbers; write it again with numpy.save"])
    if array.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(array)))):
        raise DataError([f"{path}: {bad} of {array.size} voxels are not finite (NaN or infinity); "
                         "replace them, or leave the case out"])
    return array


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _three(values: Any) -> tuple:
    x, y, z = (value.item() if isinstance(value, np.generic) else value for value in values)
    return x, y, z
