"""Augmentation moves image and label together, in mm and not in voxels, each change with a probability of its own."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import ndimage

from src.data.augment import (
    BRIGHTNESS,
    DEFORM_MM,
    ROTATION_DEGREES,
    SHIFT_SHARE,
    Augmentation,
    random_displacement,
)
from src.data.augment_intensity import add_noise
from src.data.augment_space import affine_matrix, resample, source_positions
from src.overrides import load_recipe

SLICES = (1.0, 1.0, 3.0)
SHAPE = (96, 96, 32)  # 96 mm along each axis with SLICES
OTHERS = ("mirror_axes", "scale_range", "spacing")
ALL = {field.name: 1.0 for field in dataclasses.fields(Augmentation) if field.name not in OTHERS}
AFFINE = Augmentation(rotate=1, scale=1, shift=1)
SPACE = Augmentation(deform=1, rotate=1, scale=1, shift=1)
INTENSITY = ("histogram", "noise", "blur", "brightness", "contrast", "gamma", "low_resolution", "bias")


def ball(centre_mm, radius_mm=10.0):
    """Make a ball around a point given in mm from the block's centre."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    position = (index - (np.array(SHAPE) - 1) / 2) * SLICES
    return (np.linalg.norm(position - centre_mm, axis=-1) <= radius_mm).astype(np.uint8)


def moved(label, seed, spacing=SLICES):
    """Augment a label; equal seeds move all labels alike."""
    return AFFINE(label.astype(np.float32), label, np.random.default_rng(seed), spacing)[1]


def case(seed=0, shape=(20, 18, 16)):
    """A z-scored image of noise with background at its edge, and a label of classes 0, 1 and 3."""
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    image[0], label = image.min() - 1, np.zeros(shape, np.uint8)
    label[4:14, 4:9, 4:12], label[6:12, 9:15, 4:12] = 1, 3
    return image, label


def test_nothing_drawn_leaves_all_as_it_is():
    image, label = case()
    new_image, new_label = Augmentation()(image, label, np.random.default_rng(1), SLICES, other=image * 2)
    assert np.array_equal(new_image, image) and np.array_equal(new_label, label)


def test_equal_states_give_equal_results_and_arguments_stay():
    image, label = case()
    other = case(9)[0]
    before = image.copy(), label.copy(), other.copy()
    augmentation = Augmentation(**ALL, mirror_axes=(0, 2))
    first, again, second = (augmentation(image, label, np.random.default_rng(seed), SLICES, other)
                            for seed in (1, 1, 2))
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not np.array_equal(first[0], second[0])
    assert first[0].dtype == np.float32 and first[1].dtype == np.uint8 and first[0].shape == first[1].shape
    assert all(np.array_equal(*pair) for pair in zip(before, (image, label, other), strict=True))


@pytest.mark.parametrize("key", [name for name in ALL if name != "mirror"])
def test_each_change_has_its_own_key(key):
    """A probability of 1 changes every sample, one of 0.5 about half of them; intensities never touch the label."""
    image, label = case()
    other = 3 * case(9)[0]
    recipe = load_recipe(overrides=[f"aug_{name}={int(name == key)}" for name in ALL])
    augmentation = Augmentation.from_recipe(recipe)
    same_label = []
    for seed in range(5):
        new_image, new_label = augmentation(image, label, np.random.default_rng(seed), SLICES, other)
        assert not np.array_equal(new_image, image)
        assert set(np.unique(new_label)) == {0, 1, 3}
        same_label.append(np.array_equal(new_label, label))
    assert all(same_label) == (key in INTENSITY)
    half = dataclasses.replace(augmentation, **{key: 0.5})
    changed = [not np.array_equal(half(image, label, np.random.default_rng(seed), SLICES, other)[0], image)
               for seed in range(60)]
    assert 15 < sum(changed) < 45


def test_mirroring_is_exact_and_along_the_given_axes():
    image, label = case()
    for axes, expected in (("none", ()), ("x", (0,)), ("yz", (1, 2)), ("xyz", (0, 1, 2))):
        overrides = [*(f"aug_{name}={int(name == 'mirror')}" for name in ALL), f"mirror_axes={axes}"]
        augmentation = Augmentation.from_recipe(load_recipe(overrides=overrides))
        new_image, new_label = augmentation(image, label, np.random.default_rng(0))
        assert np.array_equal(new_image, np.flip(image, expected))
        assert np.array_equal(new_label, np.flip(label, expected))
        assert new_image.flags.c_contiguous and new_label.flags.c_contiguous
    half = Augmentation(mirror=0.5, mirror_axes=(0, 1))
    seen = [half(image, label, np.random.default_rng(seed))[1] for seed in range(40)]
    for axes in ((), (0,), (1,), (0, 1)):  # each axis by itself
        assert 2 <= sum(np.array_equal(one, np.flip(label, axes)) for one in seen) <= 20


@pytest.mark.parametrize("scale_range", [0.0, 0.1, 0.4])
def test_scale_range_bounds_the_scaling(scale_range):
    """By the volume of a ball: 24 draws fill the range and never leave it."""
    rest = [f"aug_{name}={int(name == 'scale')}" for name in ALL]
    augmentation = Augmentation.from_recipe(load_recipe(overrides=[*rest, f"aug_scale_range={scale_range}"]))
    ball = (np.sum((np.indices((32, 32, 32)) - 15.5) ** 2, axis=0) < 8**2).astype(np.uint8)
    factors = [np.cbrt(ball.sum() / augmentation(ball.astype(np.float32), ball, np.random.default_rng(seed))[1].sum())
               for seed in range(24)]
    assert 1 - scale_range - 0.03 < min(factors) <= 1 - 0.6 * scale_range + 0.02
    assert 1 + 0.6 * scale_range - 0.02 <= max(factors) < 1 + scale_range + 0.03


def test_from_recipe_takes_every_key():
    shares = {name: i / 16 for i, name in enumerate(ALL)}
    recipe = load_recipe(overrides=[*(f"aug_{name}={share}" for name, share in shares.items()), "mirror_axes=xz",
                                    "aug_scale_range=0.2"])
    found = Augmentation.from_recipe(recipe)
    assert dataclasses.asdict(found) == {**shares, "scale_range": 0.2, "mirror_axes": (0, 2), "spacing": None}


def test_spacing_stands_in_for_what_headers_have_lost():
    """With `aug_spacing` every change is the one of voxels of that size, whatever the header says."""
    image, label = case()
    plain, told = (Augmentation.from_recipe(load_recipe(overrides=[f"aug_{name}=1" for name in ALL] + more))
                   for more in ([], ["aug_spacing=[1,1,3]"]))
    for seed in range(3):
        expected = plain(image, label, np.random.default_rng(seed), SLICES)
        found = told(image, label, np.random.default_rng(seed), (1.0, 1.0, 1.0))
        assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
        assert not np.array_equal(found[0], plain(image, label, np.random.default_rng(seed), (1.0, 1.0, 1.0))[0])


def test_stretching_has_a_factor_for_each_axis():
    """A box's edges change by factors of their own, all within the range; axes stay where they were."""
    augmentation = Augmentation(stretch=1, scale_range=0.3)
    box = np.zeros((48, 48, 48), np.uint8)
    box[12:36, 12:36, 12:36] = 1
    ratios = []
    for seed in range(24):
        new = augmentation(box.astype(np.float32), box, np.random.default_rng(seed), SLICES)[1]
        edges = [np.count_nonzero(new.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        assert new.sum() / np.prod(edges) > 0.98  # still a box; the edges lose some voxels to interpolation
        ratios.append(24 / np.array(edges))
    ratios = np.array(ratios)
    assert 0.68 < ratios.min() < 0.8 and 1.2 < ratios.max() < 1.36  # whole voxels: 18 of 18.5
    assert np.abs(np.corrcoef(ratios.T)[np.triu_indices(3, 1)]).max() < 0.6


def test_stretching_changes_no_other_draw():
    """At probability 0 nothing is drawn for it: seeds of before it existed give what they gave."""
    image, label = case()
    found = Augmentation(rotate=1, noise=1)(image, label, np.random.default_rng(3), SLICES)[0]
    rng = np.random.default_rng(3)
    rng.random(4)
    angles = np.deg2rad(rng.uniform(-15, 15, 3))
    positions = source_positions(image.shape, affine_matrix(angles, 1.0, SLICES), np.zeros(3))
    moved_image = resample(image, label, positions, float(image.min()))[0]
    rng.random(2)  # histogram, noise
    expected = add_noise(moved_image, rng.uniform(0.0, 0.1), rng)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("augmentation", [AFFINE, SPACE])
def test_image_and_label_move_together(augmentation):
    """A bright box and its label stay on top of each other whatever the draw."""
    image = np.full((24, 24, 24), -1.0, np.float32)
    label = np.zeros(image.shape, np.uint8)
    image[8:16, 6:16, 9:15] = 3.0
    label[8:16, 6:16, 9:15] = 1
    for seed, spacing in itertools.product(range(5), [(1, 1, 1), (1, 1, 1.5)]):
        new_image, new_label = augmentation(image, label, np.random.default_rng(seed), spacing)
        assert new_image.dtype == np.float32 and new_label.dtype == np.uint8
        assert np.array_equal(new_image > 1, new_label > 0)  # halfway between -1 and 3
        assert 0.4 < new_label.sum() / label.sum() < 2.2
        assert not np.array_equal(new_label, label)


@pytest.mark.parametrize("seed", range(4))
def test_anatomy_is_scaled_and_not_sheared(seed):
    """All distances in mm grow by one factor, and a box's volume by its cube."""
    landmarks = np.array([(-22, 0, 0), (22, 0, 0), (0, -22, 0), (0, 22, 0), (0, 0, -24), (0, 0, 24)], np.float64)
    found = np.array([ndimage.center_of_mass(moved(ball(point), seed)) for point in landmarks]) * SLICES
    pairs = np.array(list(itertools.combinations(range(len(landmarks)), 2))).T
    ratios = np.divide(*(np.linalg.norm(np.subtract(*points[pairs]), axis=1) for points in (found, landmarks)))
    np.testing.assert_allclose(ratios, ratios.mean(), rtol=0.015)  # slices of 3 mm leave that much to chance
    assert 1 / 1.15 - 0.01 < ratios.mean() < 1 / 0.85 + 0.01

    box = np.zeros(SHAPE, np.uint8)
    box[30:66, 34:62, 10:22] = 1  # 36 x 28 x 36 mm
    assert moved(box, seed).sum() / box.sum() == pytest.approx(ratios.mean() ** 3, rel=0.02)


@pytest.mark.parametrize("length", [0.7, 2.0])
def test_equal_spacings_are_as_none(length):
    label = ball((5, 0, 3))
    plain = AFFINE(label.astype(np.float32), label, np.random.default_rng(3))
    scaled = AFFINE(label.astype(np.float32), label, np.random.default_rng(3), (length,) * 3)
    np.testing.assert_allclose(scaled[0], plain[0], atol=1e-4)


def test_ranges():
    """A ramp shows the shift, a line the rotation about z; brightness adds to the mean."""
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32).reshape(40, 1, 1), (40, 12, 8)).copy()
    label = np.zeros(ramp.shape, np.uint8)
    shifts, levels = [], []
    for seed in range(40):
        shifts.append(Augmentation(shift=1)(ramp, label, np.random.default_rng(seed))[0][20, 6, 4] - 20)
        levels.append((Augmentation(brightness=1)(ramp, label, np.random.default_rng(seed))[0] - ramp).mean())
    assert SHIFT_SHARE * 40 * 0.7 < np.abs(shifts).max() <= SHIFT_SHARE * 40 + 1e-4
    assert BRIGHTNESS * 0.7 < np.abs(levels).max() <= BRIGHTNESS + 1e-4
    slopes = []
    for seed in range(20):
        turned = Augmentation(rotate=1)(ramp, label, np.random.default_rng(seed))[0]
        slopes.append(np.rad2deg(np.arcsin(abs(turned[20, 7, 4] - turned[20, 5, 4]) / 2)))
    assert ROTATION_DEGREES * 0.6 < max(slopes) < 1.2 * ROTATION_DEGREES


def test_displacement_is_bounded_in_mm():
    """0.4 of the shortest cell, which is half of 16 slices of 3 mm; at most 26 mm."""
    for shape, spacing, bound in (((64, 64, 16), (1, 1, 3), 9.6), ((512, 512, 512), (1, 1, 2), DEFORM_MM)):
        millimetres = random_displacement(shape, spacing, np.random.default_rng(0)) * np.reshape(spacing, (3, 1, 1, 1))
        for part in millimetres:
            assert 0.9 * bound < np.abs(part).max() <= bound


def test_outside_is_the_least_value_and_background():
    image, label = np.full((20, 20, 20), 2.0, np.float32), np.ones((20, 20, 20), np.uint8)
    image[10, 10, 10] = -4
    for seed in range(5):
        new_image, new_label = AFFINE(image, label, np.random.default_rng(seed))
        assert new_image.min() >= -4
        if (new_label == 0).any():
            assert new_image[ndimage.binary_erosion(new_label == 0, iterations=2, border_value=1)].max(initial=-4) == -4


def test_a_window_takes_real_data_from_around_it():
    """A ramp stays a ramp up to the patch's edges, and with no change in space the patch is cut out."""
    ramp = np.broadcast_to(np.arange(60, dtype=np.float32).reshape(60, 1, 1), (60, 40, 40)).copy()
    label = (ramp > 30).astype(np.uint8)
    window = (slice(20, 36), slice(12, 28), slice(12, 28))
    for seed in range(5):
        new_image, new_label = SPACE(ramp, label, np.random.default_rng(seed), window=window)
        assert new_image.shape == new_label.shape == (16, 16, 16)
        assert new_image.min() > 8 and new_image.max() < 48  # not the 0 of outside
        assert np.diff(new_image, axis=0).min() > 0
        assert new_image.mean() == pytest.approx(27.5, abs=4)
        clear = np.abs(new_image - 30.5) > 0.01
        assert np.array_equal(new_label[clear], new_image[clear] > 30.5)
    plain = Augmentation(mirror=1, mirror_axes=(0,))(ramp, label, np.random.default_rng(0), window=window)
    assert np.array_equal(plain[0], ramp[window][::-1]) and np.array_equal(plain[1], label[window][::-1])


def test_histograms_are_those_of_the_whole_scans():
    """Whatever the patch, equal intensities become equal: here double the value, as in all of the other scan."""
    image, label = case()
    image -= image.min()
    augmentation = Augmentation(histogram=1)
    window = (slice(3, 11), slice(0, 8), slice(2, 9))
    new_image, new_label = augmentation(image, label, np.random.default_rng(0), other=2 * image, window=window)
    np.testing.assert_allclose(new_image, 2 * image[window], atol=0.01)
    assert np.array_equal(new_label, label[window])
    assert np.array_equal(augmentation(image, label, np.random.default_rng(0))[0], image)  # no other scan, no change
