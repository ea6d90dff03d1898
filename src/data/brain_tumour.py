"""MSD Task01_BrainTumour: `imagesTr/BRATS_001.nii.gz` of four modalities and `labelsTr/BRATS_001.nii.gz`.

Medical Segmentation Decathlon: Antonelli et al., Nature Communications 13, 2022, doi:10.1038/s41467-022-30695-9.
Instead of NIfTI, a file may be `.npy`: image (X, Y, Z, 4), label (X, Y, Z), taken as voxels of 1 mm.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from src.config import unet3d_size_problem
from src.data import nifti
from src.data.case import Case
from src.data.data_manager import DataManager, Sample, read_volume
from src.data.geometry import Geometry
from src.errors import DataError, UserError

IMAGE_FOLDER = "imagesTr"
LABEL_FOLDER = "labelsTr"
MODALITIES = 4  # FLAIR, T1, T1 with contrast agent, T2
SUFFIXES = (*nifti.SUFFIXES, ".npy")


def all_names(data_path: Path) -> list[str]:
    """List the image file names of a data folder, sorted.

    Raises:
        UserError: the folder has no images.
    """
    folder = _image_folder(Path(data_path))
    names = sorted(path.name for path in folder.iterdir() if _case_id(path.name) and not path.name.startswith("."))
    if not names:
        raise UserError(f"no volume ({', '.join(SUFFIXES)}) in {folder}; put the case images there")
    return names


def find_cases(data_path: Path, names: Sequence[str], need_labels: bool = True) -> list[Case]:
    """Look up the files of the named cases, all of which have to be there; as `prostate.find_cases`.

    Raises:
        UserError: the data folder itself is wrong.
        DataError: with the problems that `scan_cases` finds.
    """
    cases, problems = scan_cases(data_path, names, need_labels)
    if problems:
        raise DataError(problems)
    return cases


def scan_cases(data_path: Path, names: Sequence[str], need_labels: bool = True) -> tuple[list[Case], list[str]]:
    """Look up the files of the named cases, and say which are not as they should be.

    Args:
        data_path: folder that holds `imagesTr/` and `labelsTr/`.
        names: image file names, as in a split file; a label has the name of its image, or the same with another
            suffix.
        need_labels: whether a case without label is a problem; where it is not, its `label_path` is None.

    Returns:
        The cases whose image is there, in the order of `names`, and one sentence for every name that is no volume's,
        occurs twice, or lacks a file.

    Raises:
        UserError: the data folder itself is wrong.
    """
    folder = _image_folder(Path(data_path))
    problems: list[str] = []
    cases: dict[str, Case] = {}
    for name in names:
        case_id = _case_id(name)
        if not case_id:
            problems.append(f"{name}: not a volume's file name, expected a suffix of {', '.join(SUFFIXES)}; "
                            "correct the split file")
            continue
        if case_id in cases:
            problems.append(f"{case_id}: named twice, as {cases[case_id].image_path.name} and {name}; "
                            "name each case once")
            continue
        labels = Path(data_path) / LABEL_FOLDER
        found = [labels / other for other in (name, *(case_id + suffix for suffix in SUFFIXES))
                 if (labels / other).is_file()]
        if not found and need_labels:
            problems.append(f"{case_id}: label {labels / name} is missing; add it, or take the case out of the split "
                            "file")
        if (folder / name).is_file():
            cases[case_id] = Case(case_id, folder / name, found[0] if found else None)
        else:
            problems.append(f"{case_id}: image {folder / name} is missing; correct the split file or add the case")
    return list(cases.values()), problems


class BrainTumourManager(DataManager):
    """Preprocessing of four-channel images, both ways: intensities divided by the maximum, labels made binary.

    The network sees the whole volume; nothing is cropped or resampled, unless a size to resize to is given.

    Args:
        target_size: voxels (x, y, z) to resize to by nearest neighbour; zeros for the size on disk.
        by_modality: whether each modality is divided by its own maximum, in place of the image's.
    """

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


def resize_nearest(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return an array (..., x, y, z) resized to `size`: each voxel takes the one that its centre lies in."""
    for axis, count in zip((-3, -2, -1), size, strict=True):
        present = array.shape[axis]
        if count != present:
            index = ((2 * np.arange(count) + 1) * present) // (2 * count)
            array = np.take(array, index, axis=axis)
    return array


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


def _case_id(name: str) -> str:
    """Return a file name without its suffix; "" when it is not a volume's."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return ""


def _image_folder(data_path: Path) -> Path:
    folder = data_path / IMAGE_FOLDER
    if folder.is_dir():
        return folder
    remedy = f"give the folder that holds {IMAGE_FOLDER}/ and {LABEL_FOLDER}/"
    if not data_path.is_dir():
        raise UserError(f"data folder {data_path} is not there; {remedy}")
    raise UserError(f"data folder {data_path} has no {IMAGE_FOLDER}/ in it; {remedy}")


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _three(values: Any) -> tuple:
    x, y, z = (value.item() if isinstance(value, np.generic) else value for value in values)
    return x, y, z
