"""Volumes from and to MetaImage and NIfTI files.

With `resampling.py` the only file that knows SimpleITK and its (z, y, x) array order; everywhere else arrays are
(x, y, z).
"""

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from src.data import metaimage, nifti
from src.data.case import VOLUME_SUFFIXES, split_volume_name
from src.data.geometry import Geometry
from src.errors import DataError, UserError
from src.files import atomic_path


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
    image = to_image(array.astype(np.uint8) if array.dtype == bool else array, geometry)
    write = _write_pair if suffix.lower() == ".mhd" else _write_single
    try:
        write(path, image, compress)
    except (RuntimeError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: the volume cannot be written ({reason}); "
                        "check the path, its permissions and the free space") from error


def to_image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Make a SimpleITK image of (x, y, z) voxels on their grid."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


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
