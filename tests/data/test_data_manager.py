import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.data import prostate
from src.data.case import Case
from src.data.case_files import read_case
from src.data.data_manager import DataManager
from src.data.geometry import Geometry
from src.data.resampling import largest_class
from src.data.volume_files import read_volume, write_volume
from src.errors import DataError, UserError
from tests.data.helpers import OBLIQUE, dice, ellipsoid, write_case

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
PROMISE12 = {"spacing": (1.0, 1.0, 1.5), "volume_size": (128, 128, 64)}
TWO_PARTS = ((20, 17, 18), (9, 20, 10))  # mm, radii of an ellipsoid and of a second one that cuts through it


def noise(size, dtype=np.int16, seed=0):
    return np.random.default_rng(seed).integers(0, 100, size).astype(dtype)


def test_array_must_fit_the_grid():
    with pytest.raises(ValueError, match="for a grid of"):
        DataManager((1, 1, 1), (4, 4, 4)).preprocess(noise((3, 4, 5)), Geometry((5, 4, 3)))


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
    assert (manager.classes, manager.whole, manager.zoom_ml) == (2, False, 0.0)


@pytest.mark.parametrize(
    ("change", "key"),
    [({"spacing": (1, 1)}, "dstRes"), ({"spacing": (1, 0, 1)}, "dstRes"), ({"volume_size": (8, 8)}, "VolSize"),
     ({"volume_size": (8, 8, 0.5)}, "VolSize"), ({"intensity_percentiles": (99, 1)}, "intensity_percentiles")],
)
def test_nonsense_settings_are_refused(change, key):
    with pytest.raises(UserError, match=key):
        DataManager(**{"spacing": (1, 1, 1), "volume_size": (8, 8, 8), **change})


def two_parts(geometry):
    """Make a label of background, class 1, and class 2 that reaches beyond it on two sides."""
    label = ellipsoid(geometry, TWO_PARTS[0])
    label[ellipsoid(geometry, TWO_PARTS[1]) > 0] = 2
    return label


def test_a_label_of_three_classes_on_its_own_grid_is_exact():
    """Fractions are 0 and 1 there, so that label, fractions and what is pasted back all say the same."""
    native = dataclasses.replace(OBLIQUE, size=(40, 36, 30), spacing=(1.0, 1.0, 1.0))
    manager = DataManager((1, 1, 1), (48, 48, 32), classes=3)
    label = np.random.default_rng(0).integers(0, 3, native.size).astype(np.uint8)
    fractions = manager.label_fraction(label, native)
    assert fractions.shape == (3, 48, 48, 32) and fractions.dtype == np.float32
    np.testing.assert_allclose(fractions.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(manager.preprocess_label(label, native), largest_class(fractions))
    pasted = manager.paste_back(fractions, manager.block_geometry(native), native)
    assert pasted.shape == (3, *native.size) and pasted.dtype == np.float32
    np.testing.assert_array_equal(pasted.argmax(axis=0), label)
    assert np.isin(manager.preprocess_label(label, native), (0, 1, 2)).all()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("normalise_direction", [False, True])
def test_fractions_of_three_classes_pasted_back_give_the_label(normalise_direction, whole):
    native = dataclasses.replace(OBLIQUE, size=(160, 160, 30), spacing=(0.5, 0.5, 2.0))
    label = two_parts(native)
    manager = DataManager((0.8, 0.8, 1.2), (96, 96, 64), normalise_direction, classes=3, whole=whole)
    pasted = manager.paste_back(manager.label_fraction(label, native), manager.block_geometry(native), native)
    np.testing.assert_allclose(pasted.sum(axis=0), 1, atol=1e-5)
    for number in (1, 2):
        assert dice(pasted.argmax(axis=0) == number, label == number) >= 0.98
    block = manager.preprocess_label(label, native)
    assert block.dtype == np.uint8 and np.unique(block).tolist() == [0, 1, 2]


def test_all_is_background_outside_the_block():
    native = Geometry((12, 4, 4))
    manager = DataManager((1, 1, 1), (4, 4, 4), classes=3)
    probability = np.zeros((3, 4, 4, 4), np.float32)
    probability[2] = 1
    pasted = manager.paste_back(probability, manager.block_geometry(native), native)
    np.testing.assert_array_equal(pasted.argmax(axis=0), np.repeat([0, 2, 0], 4)[:, None, None] + np.zeros((12, 4, 4)))
    np.testing.assert_array_equal(pasted[0, :4], 1)


def test_three_classes_of_which_one_occurs_are_as_two():
    label = ellipsoid(OBLIQUE, (25, 20, 22.5))
    two, three = (DataManager(**PROMISE12, classes=classes).preprocess_label(label, OBLIQUE) for classes in (2, 3))
    np.testing.assert_array_equal(three, two)


def test_the_whole_volume_with_patches():
    """6 x 20 x 5 voxels of 1 mm at 2 mm, padded to at least 8 x 8 x 8, evenly, with what is 0 before the z-score."""
    native = Geometry((6, 20, 5), (1, 1, 2), (5, 6, 7))
    image = np.random.default_rng(0).integers(1, 100, native.size).astype(np.int16)
    image[0] = 0
    config = SimpleNamespace(dstRes=[1, 1, 2], VolSize=[8, 8, 8], normDir=False, intensity_percentiles=[0, 100],
                             classes=3, patches=True)
    manager = DataManager.from_config(config)
    block, grid = manager.preprocess(image, native)
    assert block.shape == grid.size == (8, 20, 8)
    assert grid == manager.block_geometry(native)
    inside = (slice(1, 7), slice(None), slice(1, 6))  # of an odd number of voxels to add, more come behind
    scaled = image / image.max()
    mean, deviation = scaled[scaled > 0].mean(), scaled[scaled > 0].std()
    np.testing.assert_allclose(block[inside], (scaled - mean) / deviation, atol=1e-5)
    outside = np.ones(grid.size, bool)
    outside[inside] = False
    np.testing.assert_allclose(block[outside], -mean / deviation, atol=1e-5)
    label = np.random.default_rng(1).integers(0, 3, native.size).astype(np.uint8)
    found = manager.preprocess_label(label, native)
    np.testing.assert_array_equal(found[inside], label)
    assert not found[outside].any()
    assert manager.label_fraction(label, native).shape == (3, 8, 20, 8)


def test_nothing_is_cropped_with_patches(tmp_path):
    native = Geometry((10, 10, 10), (1, 1, 2))
    label = np.zeros(native.size, np.uint8)
    label[0, 0, 0], label[9, 9, 9] = 1, 2
    case = write_case(tmp_path, "Case00", noise(native.size), label, native)
    sample = DataManager((1.1, 1.1, 1.7), (6, 6, 6), classes=3, whole=True).load(case)
    assert sample.cropped_foreground == 0
    assert sample.foreground_ml == pytest.approx(2 * 2 / 1000)
    assert sample.image.shape == sample.label.shape == sample.block.size == (10, 10, 12)
    flat = write_case(tmp_path, "Case01", np.eye(10)[:, :, None] * np.ones(10), label, native)
    with pytest.raises(DataError, match="no contrast in the volume at"):
        DataManager((1, 1, 2), (6, 6, 6), classes=3, whole=True).load(flat)


def test_labels_are_read_as_the_classes_of_the_recipe(tmp_path):
    native = Geometry((8, 8, 8))
    label = np.resize(np.array([0, 1, 2], np.float32), native.size)
    case = write_case(tmp_path, "Case00", noise(native.size), label, native)
    np.testing.assert_array_equal(DataManager((1, 1, 1), (8, 8, 8), classes=3).load(case).label, label)
    with pytest.raises(DataError, match="expected 0 and one foreground value"):
        DataManager((1, 1, 1), (8, 8, 8)).load(case)
