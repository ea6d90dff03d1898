import dataclasses
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from src.data.geometry import Geometry
from src.data.volume_files import read_volume, write_volume
from src.errors import DataError, UserError

ROOT = Path(__file__).parents[2]
MIRRORED = Geometry((5, 6, 7), (0.5, 0.7, 3.1), (-12.3456789, 0.1, 99.0), (0, -1, 0, 1, 0, 0, 0, 0, 1))


def noise(size, dtype=np.int16, seed=0):
    return np.random.default_rng(seed).integers(0, 100, size).astype(dtype)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize(("name", "compress"), [("a.mhd", True), ("a.mhd", False), ("a.mha", True), ("a.mha", False)])
def test_metaimage_round_trip(tmp_path, dtype, name, compress):
    array = noise(MIRRORED.size, dtype)
    write_volume(tmp_path / name, array, MIRRORED, compress)
    found, geometry = read_volume(tmp_path / name)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    for field in dataclasses.fields(Geometry):
        np.testing.assert_allclose(getattr(geometry, field.name), getattr(MIRRORED, field.name), atol=1e-12)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_round_trip(tmp_path, name):
    write_volume(tmp_path / name, noise(MIRRORED.size), MIRRORED)
    found, geometry = read_volume(tmp_path / name)
    np.testing.assert_array_equal(found, noise(MIRRORED.size))
    assert MIRRORED.differences(geometry, tolerance=1e-5) == []


def test_pair_of_files_appears_without_traces(tmp_path):
    for compress, voxels in ((True, "a.zraw"), (False, "a.raw")):
        folder = tmp_path / voxels
        write_volume(folder / "a.mhd", noise((3, 4, 5)) > 50, Geometry((3, 4, 5)), compress)
        assert sorted(path.name for path in folder.iterdir()) == ["a.mhd", voxels]
        assert f"ElementDataFile = {voxels}" in (folder / "a.mhd").read_text()
        assert read_volume(folder / "a.mhd")[0].dtype == np.uint8


def test_header_is_written_after_the_voxels(tmp_path, monkeypatch):
    """A crash between the two renames leaves no header beside voxels that are not its own."""
    path = tmp_path / "a.mhd"
    write_volume(path, noise((3, 4, 5)), Geometry((3, 4, 5)))
    replace = Path.replace

    def fail_on_header(self, target):
        if self.name == "a.mhd":
            raise OSError("disk full")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_on_header)
    with pytest.raises(UserError, match="a.mhd: the volume cannot be written .disk full.; check"):
        write_volume(path, noise((3, 4, 5), seed=1), Geometry((3, 4, 5)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.zraw"]


@pytest.mark.parametrize("name", ["a.mhd", "a.mha", "a.nii", "a.nii.gz"])
def test_what_cannot_be_written_is_named(tmp_path, name):
    array, geometry = noise((30, 30, 30)), Geometry((30, 30, 30))
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: the volume cannot be written .Is a directory.; check .* permissions"):
        write_volume(tmp_path / name, array, geometry)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written .*(Not a directory|File exists)"):
        write_volume(tmp_path / "file" / name, array, geometry)
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(UserError, match="Permission denied"):
            write_volume(tmp_path / "locked" / name, array, geometry)
    # A limit on the size of files stands in for a full disk: writing stops in the middle.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
        with pytest.raises(UserError, match="cannot be written .*(File too large|only a part)"):
            write_volume(tmp_path / "full" / name, array, geometry)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "full").iterdir()) == []


@pytest.mark.parametrize("name", ["a.mhd", "a.mha"])
def test_image_with_dicom_tags_is_read(tmp_path, name):
    """SimpleITK stores a DICOM image's tags as keys of the MetaImage header."""
    image = sitk.GetImageFromArray(noise((5, 4, 3)))
    for key, value in (("0008|0060", "MR"), ("0018|0087", "3"), ("Patient Name", "x"), ("Größe", "1"), ("a.b", "=")):
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / name))
    assert b"0008|0060 = MR" in (tmp_path / name).read_bytes()
    found, geometry = read_volume(tmp_path / name)
    np.testing.assert_array_equal(found, noise((5, 4, 3)).transpose(2, 1, 0))
    assert geometry == Geometry((3, 4, 5))


def test_writing_is_deterministic(tmp_path):
    for folder in ("a", "b"):
        write_volume(tmp_path / folder / "c.mhd", noise(MIRRORED.size), MIRRORED)
    for name in ("c.mhd", "c.zraw"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_voxels_are_refused(tmp_path, bad):
    array = np.ones((3, 4, 5), np.float32)
    array[1, 2, 3] = bad
    write_volume(tmp_path / "a.mhd", array, Geometry((3, 4, 5)))
    with pytest.raises(DataError, match="a.mhd: 1 of 60 voxels are not finite"):
        read_volume(tmp_path / "a.mhd")


def test_unknown_format_is_refused(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="no known volume format"):
        read_volume(tmp_path / "a.png")


def test_array_must_fit_the_grid(tmp_path):
    with pytest.raises(ValueError, match="for a grid of"):
        write_volume(tmp_path / "a.mhd", np.zeros((3, 4, 5)), Geometry((5, 4, 3)))


def test_simpleitk_stays_in_two_files():
    users = {path.name for path in (ROOT / "src").rglob("*.py") if "import SimpleITK" in path.read_text("utf-8")}
    assert users == {"volume_files.py", "resampling.py"}
