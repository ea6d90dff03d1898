"""LGG segmentation data set: a folder a patient, `TCGA_XX_0000_00000000/`, a picture a slice.

Slice k, from 1, is `NAME_k.tif` of three channels (before contrast agent, FLAIR, after it) and `NAME_k_mask.tif`, the
FLAIR abnormality. Names in split files are those of the folders. Buda et al., Computers in Biology and Medicine 109,
2019, doi:10.1016/j.compbiomed.2019.05.002.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.data.case import Case
from src.data.geometry import Geometry
from src.data.layout import all_found
from src.data.picture_files import PictureReader, size_text
from src.data.resampling import half_filled, resample
from src.data.slices import SliceManager, grid_over, native_grid
from src.errors import DataError, UserError

CHANNELS = 3
FLAIR = 1  # the channel that shows what is to be found
BRAIN_SHARE = 0.1  # of the volume's maximum, above which a voxel is brain
PERCENTILES = (10.0, 99.0)  # of a channel of the volume, beyond which it is clipped
MOST_VALIDATION_PATIENTS = 10

_SLICE = re.compile(r"(?P<name>.+?)_(?P<number>\d+)(?P<mask>_mask)?\.tiff?", re.IGNORECASE)


class LggManager(SliceManager):
    """Patients' slices, both ways: cropped to the brain, padded to the network's proportions, resized and z-scored."""

    channels = CHANNELS

    def read_pictures(self, case: Case) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Read and check a patient; see `SliceManager.read_pictures`.

        Raises:
            DataError: slices or masks are missing, damaged, of different sizes or not of the expected values.
        """
        images, masks, problems = patient_files(case.image_path, case.label_path is not None)
        reader = PictureReader()
        pictures: dict[Path, np.ndarray] = {}
        read_masks: list[np.ndarray | None] = []
        for number, path in sorted(images.items()):
            picture = reader.picture(path)
            if picture is not None and len(picture) != CHANNELS:
                reader.problems.append(f"{path}: {len(picture)} channel, expected {CHANNELS}: before contrast agent, "
                                       "FLAIR, after it; save the slice in RGB")
                picture = None
            if picture is not None:
                pictures[path] = picture
            if number in masks:
                read_masks.append(reader.mask(masks[number], picture))
        for number in sorted(set(masks) - set(images)):
            reader.mask(masks[number], None)
        problems += [*reader.problems, *_size_problems(pictures)]
        if problems:
            raise DataError(problems)
        image = np.stack(list(pictures.values()), axis=-1)
        if case.label_path is None:
            return image, None, None
        return image, np.stack([mask for mask in read_masks if mask is not None], axis=-1), None

    def crop_box(self, image: np.ndarray) -> tuple[slice, slice, slice]:
        """Return the box of the brain in all three directions: of the voxels above a tenth of the maximum.

        Raises:
            DataError: no voxel is above 0.
        """
        if image.max() <= 0:
            raise DataError(["no voxel above 0 in any slice; check the patient, or leave it out"])
        brain = (image > BRAIN_SHARE * float(image.max())).any(axis=0)
        ends = [np.flatnonzero(brain.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
        x, y, z = (slice(int(end[0]), int(end[-1]) + 1) for end in ends)
        return x, y, z

    def block_grid(self, box: tuple[slice, slice, slice]) -> Geometry:
        """Return the grid of the network's pictures: over the box, padded evenly to the proportions of `image_size`."""
        start = [part.start for part in box]
        extent = [float(part.stop - part.start) for part in box]
        scale = max(extent[axis] / self.image_size[axis] for axis in (0, 1))
        for axis in (0, 1):
            padded = scale * self.image_size[axis]
            # By whole pixels: half a one would blur a picture that is not scaled.
            start[axis] -= int((padded - extent[axis]) // 2)
            extent[axis] = padded
        return grid_over(start, extent, self.image_size)

    def normalise(self, block: np.ndarray, region: np.ndarray | None) -> None:
        """Clip each channel to its percentiles over the volume and z-score it in place; see `SliceManager.normalise`.

        Scaling between the two would change nothing: z-scoring undoes it.
        """
        for channel in block:
            low, high = (float(value) for value in np.percentile(channel, PERCENTILES))
            np.clip(channel, low, high, out=channel)
        super().normalise(block, region)

    def shown(self, image: np.ndarray) -> np.ndarray:
        """Return FLAIR (x, y, z) of pictures (3, x, y, z)."""
        return image[FLAIR]

    def block_label(self, label: np.ndarray, grid: Geometry) -> np.ndarray:
        """Resize a label linearly with its picture: (X, Y, Z) uint8, 1 where at least one half is foreground."""
        return half_filled(resample(label.astype(np.float32), native_grid(label), grid))

    def paste_back(self, probability: np.ndarray, block: Geometry, native: Geometry) -> np.ndarray:
        """Undo crop, padding and resizing of probabilities (X, Y, Z) linearly: (x, y, z) float32, 0 outside of them."""
        return resample(np.asarray(probability, np.float32), block, native)

    def mask_paths(self, folder: Path, case: Case) -> list[Path]:
        """Return the files of a patient's predicted masks: PATIENT/NAME_k_mask.tif, by k."""
        images = patient_files(case.image_path)[0]
        return [Path(folder) / case.case_id / f"{images[k].stem}_mask.tif" for k in sorted(images)]

    def write_mask(self, folder: Path, case: Case, mask: np.ndarray, native: Geometry) -> list[Path]:
        """Write a predicted mask (x, y, z) as the data set has them, of {0, 255}; return its `mask_paths`.

        Raises:
            UserError: it cannot be written, or would take the place of the patient's own masks.
        """
        if (Path(folder) / case.case_id).resolve() == case.image_path.resolve():
            raise UserError(f"{case.image_path}: predicted masks would overwrite the patient's own; choose another "
                            "output folder")
        return super().write_mask(folder, case, mask, native)


def patient_files(folder: Path, need_masks: bool = False) -> tuple[dict[int, Path], dict[int, Path], list[str]]:
    """List the slices in a patient's folder; hidden files and those of other suffixes are none.

    Args:
        folder: of the patient.
        need_masks: whether a slice without mask is a problem.

    Returns:
        Slices and masks by number, and one sentence for every file that is no slice, every gap and missing partner.
    """
    slices: dict[bool, dict[int, Path]] = {False: {}, True: {}}
    problems: list[str] = []
    names: Counter[str] = Counter()
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in (".tif", ".tiff"):
            continue
        match = _SLICE.fullmatch(path.name)
        if match is None:
            problems.append(f"{path}: neither a slice nor a mask by its name, expected {folder.name}_1.tif or "
                            f"{folder.name}_1_mask.tif and so on; rename it or move it elsewhere")
            continue
        own, number = slices[bool(match["mask"])], int(match["number"])
        if number in own:
            problems.append(f"{path}: the same slice as {own[number].name}; keep one of the two")
            continue
        own[number] = path
        names[match["name"]] += 1
    images, masks = slices[False], slices[True]
    if len(names) > 1:
        listed = ", ".join(f"{name} ({count} files)" for name, count in names.most_common())
        problems.append(f"{folder}: slices of {len(names)} patients: {listed}; give each a folder of its own")
    if not images:
        return images, masks, [*problems, f"{folder}: no slice, expected {folder.name}_1.tif and so on; add them"]
    numbers = set(images) | set(masks)
    name = names.most_common(1)[0][0]
    if min(numbers) < 1:
        problems.append(f"{folder}: a slice number {min(numbers)}, expected numbers from 1 on; renumber the slices")
    if gaps := sorted(set(range(1, max(numbers) + 1)) - numbers):
        problems.append(f"{folder}: a gap in the slice numbers from 1 to {max(numbers)}: {', '.join(map(str, gaps))} "
                        f"{'is' if len(gaps) == 1 else 'are'} missing; add the slices, or leave the patient out")
    problems += [f"{folder / f'{name}_{number}.tif'}: the slice is missing, its mask is there; add it, or remove the "
                 "mask" for number in sorted(set(masks) - set(images))]
    if need_masks:
        problems += [f"{folder / f'{images[number].stem}_mask.tif'}: the mask is missing, its slice is there; add it, "
                     "black where there is nothing to be found" for number in sorted(set(images) - set(masks))]
    return images, masks, problems


def all_names(data_path: Path) -> list[str]:
    """List the patients' folders in a data folder, sorted.

    Raises:
        UserError: there are none.
    """
    names = [path.name for path in _patients(_data_folder(data_path))]
    if not names:
        inner = sorted({str(path.parent.parent) for path in Path(data_path).glob("*/*/*_mask.tif")})
        remedy = f"give {' or '.join(inner)}" if inner else "give the folder that holds the folders TCGA_*"
        raise UserError(f"data folder {data_path} has no patient's folder with slices NAME_1.tif in it; {remedy}")
    return names


def scan_cases(data_path: Path, names: Sequence[str], need_labels: bool = True,
               classes: int | None = None) -> tuple[list[Case], list[str]]:
    """Look up the folders of the named patients; see `Layout.scan_cases`. What is in them is checked by reading it."""
    folder = _data_folder(data_path)
    problems: list[str] = []
    cases: dict[str, Case] = {}
    for name in names:
        patient = folder / name
        if name in cases:
            problems.append(f"{name}: named twice; name each patient once")
        elif not patient.is_dir():
            problems.append(f"{name}: folder {patient} is missing; correct the split file or add the patient")
        else:
            masks = patient_files(patient)[1]
            if need_labels and not masks:
                problems.append(f"{name}: no mask {name}_1_mask.tif or another in {patient}; add them, or take the "
                                "patient out of the split file")
            cases[name] = Case(name, patient, patient if masks else None)
    return list(cases.values()), problems


def find_cases(data_path: Path, names: Sequence[str], need_labels: bool = True) -> list[Case]:
    """Look up the folders of the named patients, all of which have to be there; see `Layout.find_cases`.

    Raises:
        DataError: with the problems that `scan_cases` finds.
    """
    return all_found(scan_cases(data_path, names, need_labels))


def find_inputs(source: Path) -> tuple[list[Case], list[str]]:
    """Return the patients to predict: of a patient's folder, or of a folder of these; masks in them are not used.

    Raises:
        UserError: there are none.
    """
    if source.is_file():
        raise UserError(f"--input {source}: one file, expected a patient's folder: intensities are taken over all "
                        "slices of a patient")
    if not source.is_dir():
        raise UserError(f"--input {source}: no such folder; check the path")
    patients = [source] if _is_patient(source) else _patients(source)
    if not patients:
        raise UserError(f"--input {source}: no slice NAME_1.tif here, nor in a folder in it; give a patient's folder, "
                        "or one of such")
    return [Case(patient.resolve().name, patient) for patient in patients], []


def case_id(name: str) -> str:
    """Return the case id of a name in a split file: itself, the patient's folder."""
    return name


def is_here(data_path: Path) -> bool:
    """Return whether a folder has this layout."""
    return Path(data_path).is_dir() and bool(_patients(Path(data_path)))


def validation_count(count: int) -> int:
    """Return how many of so many patients validate: a sixth, at least one, and at most 10, as of the 110 there are."""
    return min(max(count // 6, 1), MOST_VALIDATION_PATIENTS)


def _patients(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and _is_patient(path))


def _is_patient(folder: Path) -> bool:
    """Return whether a folder's name or files are a patient's; a mask is named as a slice, but for its ending."""
    return not folder.name.startswith(".") and (folder.name.startswith("TCGA_") or any(
        _SLICE.fullmatch(path.name) and not path.name.startswith(".") for path in folder.iterdir()))


def _data_folder(data_path: Path) -> Path:
    if not Path(data_path).is_dir():
        raise UserError(f"data folder {data_path} is not there; give the folder that holds the folders TCGA_*")
    return Path(data_path)


def _size_problems(pictures: dict[Path, np.ndarray]) -> list[str]:
    sizes = Counter(picture.shape[1:] for picture in pictures.values())
    if len(sizes) < 2:
        return []
    usual = sizes.most_common(1)[0][0]
    return [f"{path}: {size_text(picture.shape[1:])} pixels, other slices of the patient have {size_text(usual)}; all "
            "have to be of one size: export the patient again"
            for path, picture in pictures.items() if picture.shape[1:] != usual]
