import dataclasses
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from src.data import prostate
from src.data.case import Case
from src.data.data_manager import DataManager, read_case, read_volume, write_volume
from src.data.geometry import Geometry
from src.errors import DataError, UserError
from tests.data.helpers import OBLIQUE, dice, ellipsoid, write_case

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
PROMISE12 = {"spacing": (1.0, 1.0, 1.5), "volume_size": (128, 128, 64)}
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


def test_array_must_fit_the_grid(tmp_path):
    with pytest.raises(ValueError, match="for a grid of"):
        write_volume(tmp_path / "a.mhd", np.zeros((3, 4, 5)), Geometry((5, 4, 3)))
    with pytest.raises(ValueError, match="for a grid of"):
        DataManager((1, 1, 1), (4, 4, 4)).preprocess(noise((3, 4, 5)), Geometry((5, 4, 3)))


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


@pytest.mark.parametrize("low_high", [(0.0, 100.0), (5.0, 95.0)])
def test_preprocess_on_its_own_grid(low_high):
    """Block and volume coincide, so only the intensities change: clip, [0, 1], z-score over what is above 0."""
    image = noise((6, 5, 4), np.int32) - 30
    manager = DataManager((2, 2, 2), (6, 5, 4), intensity_percentiles=low_high)
    geometry = Geometry((6, 5, 4), (2, 2, 2), (7, 8, 9))
    block, grid = manager.preprocess(image, geometry)
    low, high = np.percentile(image, low_high)
    scaled = (np.clip(image.astype(float), low, high) - low) / (high - low)
    expected = (scaled - scaled[scaled > 0].mean()) / scaled[scaled > 0].std()
    assert grid == geometry
    assert block.dtype == np.float32 and block.flags.c_contiguous
    np.testing.assert_allclose(block, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["i4", "i8", "f8"])
def test_values_far_from_zero_keep_their_contrast(dtype):
    image = noise((6, 5, 4), dtype)
    manager, geometry = DataManager((1, 1, 1), (6, 5, 4)), Geometry((6, 5, 4))
    np.testing.assert_allclose(manager.preprocess(image + 2_000_000_000, geometry)[0],
                               manager.preprocess(image, geometry)[0], atol=1e-5)


def test_huge_doubles_do_not_overflow():
    image = noise((6, 5, 4), np.float64)
    manager, geometry = DataManager((1, 1, 1), (6, 5, 4)), Geometry((6, 5, 4))
    np.testing.assert_allclose(manager.preprocess(image * 1e300, geometry)[0],
                               manager.preprocess(image, geometry)[0], atol=1e-5)


def test_linear_ramp_is_interpolated_exactly():
    geometry = Geometry((20, 10, 8), (0.5, 1, 3))
    image = np.broadcast_to(np.arange(20.0)[:, None, None], geometry.size)
    block, grid = DataManager((0.8, 1, 1), (8, 4, 4)).preprocess(image, geometry)
    steps = np.diff(block, axis=0)
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-4)
    assert grid.size == (8, 4, 4) and grid.spacing == (0.8, 1, 1)
    np.testing.assert_allclose(grid.centre, geometry.centre, atol=0.41)


def test_small_axes_are_padded_and_large_ones_cropped():
    geometry = Geometry((4, 12, 5))
    manager = DataManager((1, 1, 1), (8, 8, 8))
    label = np.ones(geometry.size, np.uint8)
    block = manager.preprocess_label(label, geometry)
    assert block.shape == (8, 8, 8)
    np.testing.assert_array_equal(np.argwhere(block).min(axis=0), [2, 0, 1])
    np.testing.assert_array_equal(np.argwhere(block).max(axis=0), [5, 7, 5])
    back = manager.paste_back(block, manager.block_geometry(geometry), geometry)
    np.testing.assert_allclose(back[:, 2:10], 1)
    np.testing.assert_allclose(back[:, :2], 0)
    np.testing.assert_allclose(back[:, 10:], 0)


def test_normalised_direction_permutes_voxels():
    """A mirrored volume with swapped axes, brought to identity direction, is the array flipped and transposed."""
    geometry = Geometry((3, 4, 5), (1, 1, 1), (0, 0, 0), (0, -1, 0, 1, 0, 0, 0, 0, 1))
    label = (noise(geometry.size) > 50).astype(np.uint8)
    manager = DataManager((1, 1, 1), (4, 3, 5), normalise_direction=True)
    # Patient x = -index y, patient y = index x.
    np.testing.assert_array_equal(manager.preprocess_label(label, geometry), label.transpose(1, 0, 2)[::-1])


@pytest.mark.parametrize("normalise_direction", [False, True])
def test_prostate_sized_binary_label_survives_the_default_block(normalise_direction):
    """A 50 x 40 x 45 mm ellipsoid on 0.5 x 0.5 x 3 mm, oblique, made binary at 1 x 1 x 1.5 mm: Dice >= 0.98."""
    manager = DataManager(**PROMISE12, normalise_direction=normalise_direction)
    label = ellipsoid(OBLIQUE, (25, 20, 22.5))
    block = manager.preprocess_label(label, OBLIQUE)
    back = manager.paste_back(block, manager.block_geometry(OBLIQUE), OBLIQUE)
    assert set(np.unique(block)) == {0, 1}
    assert back.shape == OBLIQUE.size and back.dtype == np.float32
    assert dice(back > 0.5, label) >= 0.98


@pytest.mark.parametrize("volume_size", [(64, 64, 64), (48, 64, 48)])
def test_sample_labels_are_exact_in_a_block_of_their_own_spacing(volume_size):
    """Without a change of spacing only cropping and padding remain, which lose nothing."""
    manager = DataManager((1, 1, 1), volume_size)
    for case in prostate.find_cases(SAMPLE, prostate.all_names(SAMPLE)):
        _, label, native = read_case(case)
        block = manager.preprocess_label(label, native)
        assert dice(manager.paste_back(block, manager.block_geometry(native), native) > 0.5, label) == 1.0


def test_sample_soft_labels_survive_a_block_of_coarser_slices():
    """1.5 mm slices of a structure few slices high: the label's fractions survive; its binary form loses thin parts."""
    manager = DataManager(**PROMISE12)
    for case in prostate.find_cases(SAMPLE, prostate.all_names(SAMPLE)):
        _, label, native = read_case(case)
        fraction = manager.label_fraction(label, native)
        assert dice(manager.paste_back(fraction, manager.block_geometry(native), native) > 0.5, label) >= 0.98


def test_writing_a_case_back_is_exact(tmp_path):
    geometry = dataclasses.replace(OBLIQUE, size=(320, 320, 20), spacing=(0.625, 0.625, 3.6))
    manager = DataManager(**PROMISE12)
    block = manager.block_geometry(geometry)
    probability = ellipsoid(block, (25, 20, 22)).astype(np.float32)
    mask = (manager.paste_back(probability, block, geometry) > 0.5).astype(np.uint8)
    write_volume(tmp_path / "Case00_test.mhd", mask, geometry)
    found, written = read_volume(tmp_path / "Case00_test.mhd")
    np.testing.assert_array_equal(found, mask)
    assert written.size == geometry.size
    for name in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(written, name), getattr(geometry, name), atol=1e-6)


def test_load(tmp_path):
    geometry = Geometry((10, 10, 10), (1, 1, 2))
    label = np.zeros(geometry.size, np.uint8)
    label[0, 0, 0] = label[5, 5, 5] = label[5, 5, 6] = label[5, 6, 5] = 255
    case = write_case(tmp_path, "Case00", noise(geometry.size), label, geometry)
    sample = DataManager((1, 1, 2), (6, 6, 6)).load(case)
    assert sample.image.shape == sample.label.shape == sample.block.size == (6, 6, 6)
    assert sample.label.dtype == np.uint8 and sample.label.sum() == 3
    assert sample.native == geometry
    assert sample.cropped_foreground == pytest.approx(0.25)
    assert sample.foreground_ml == pytest.approx(4 * 2 / 1000)
    assert DataManager((1, 1, 2), (6, 6, 6)).load(Case("Case00", case.image_path)).label is None


def test_all_problems_of_a_case_at_once(tmp_path):
    geometry = Geometry((4, 4, 4))
    case = write_case(tmp_path, "Case00", np.full((4, 4, 4), 7, np.int16), noise((4, 4, 4)), geometry)
    write_volume(case.label_path, noise((4, 4, 4)), dataclasses.replace(geometry, origin=(0, 0, 0.5)))
    with pytest.raises(DataError) as caught:
        read_case(case)
    constant, values, grid = caught.value.problems
    assert constant.startswith(f"Case00: {case.image_path}: the image is constant (every voxel is 7)")
    assert values.startswith(f"Case00: {case.label_path}: label values are {{0, ")
    assert "not on the grid" in grid and "0.5 mm apart" in grid


@pytest.mark.parametrize("values", [(0, 1, 2), (1, 2), (0, -1), (0, 0.3)])
def test_labels_that_are_not_binary(tmp_path, values):
    label = np.resize(np.array(values, np.float32), (4, 4, 4))
    case = write_case(tmp_path, "Case00", noise((4, 4, 4)), label, Geometry((4, 4, 4)))
    with pytest.raises(DataError, match="expected 0 and one foreground value"):
        read_case(case)


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0,), (1,)])
def test_binary_labels(tmp_path, values):
    label = np.resize(np.array(values, np.uint8), (4, 4, 4))
    case = write_case(tmp_path, "Case00", noise((4, 4, 4)), label, Geometry((4, 4, 4)))
    np.testing.assert_array_equal(read_case(case)[1], label > 0)


def test_image_without_contrast_in_the_block(tmp_path):
    image = np.zeros((12, 12, 12), np.int16)
    image[0, 0, 0] = 9
    case = write_case(tmp_path, "Case00", image, image > 0, Geometry((12, 12, 12)))
    with pytest.raises(DataError, match="Case00: .*Case00.mhd: no contrast in the centre block"):
        DataManager((1, 1, 1), (4, 4, 4)).load(case)
    with pytest.raises(DataError, match="percentiles 1 and 99 are both 0"):
        DataManager((1, 1, 1), (4, 4, 4), intensity_percentiles=(1, 99)).load(case)


def test_from_config():
    config = SimpleNamespace(dstRes=[1, 1, 1.5], VolSize=[128, 128, 64], normDir=True, intensity_percentiles=[1, 99])
    manager = DataManager.from_config(config)
    assert (manager.spacing, manager.volume_size) == ((1, 1, 1.5), (128, 128, 64))
    assert manager.normalise_direction and manager.intensity_percentiles == (1, 99)


@pytest.mark.parametrize(
    ("change", "key"),
    [({"spacing": (1, 1)}, "dstRes"), ({"spacing": (1, 0, 1)}, "dstRes"), ({"volume_size": (8, 8)}, "VolSize"),
     ({"volume_size": (8, 8, 0.5)}, "VolSize"), ({"intensity_percentiles": (99, 1)}, "intensity_percentiles")],
)
def test_nonsense_settings_are_refused(change, key):
    with pytest.raises(UserError, match=key):
        DataManager(**{"spacing": (1, 1, 1), "volume_size": (8, 8, 8), **change})
