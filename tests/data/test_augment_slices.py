"""Augmentation of pictures: each key's change against what can be worked out by hand."""

import dataclasses

import numpy as np
import pytest

from src.data.augment_slices import SliceAugmentation, source_positions
from src.overrides import load_recipe


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(height: int = 33, width: int = 41) -> tuple[np.ndarray, np.ndarray]:
    """Make channels of row and column numbers, and a label of a rectangle."""
    image = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).astype(np.float32)
    label = np.zeros((height, width), np.uint8)
    label[10:20, 15:30] = 1
    return image, label


@pytest.mark.parametrize(("key", "value", "field"), [
    ("aug_scale_range", 0.2, "scale_range"), ("aug_rotation", 30.0, "rotation"), ("aug_flip_x", 1.0, "flip_x"),
    ("aug_flip_y", 1.0, "flip_y"), ("aug_elastic", 0.05, "elastic"), ("aug_intensity", 0.3, "intensity")])
def test_each_change_has_its_own_key(key, value, field):
    off = {name: 0.0 for name in load_recipe("unet2d_lgg") if name.startswith("aug_")}
    augmentation = SliceAugmentation.from_recipe({**off, "task": "lgg", key: value})
    assert augmentation == SliceAugmentation(**{field: value})
    image, label = picture()
    new_image, new_label = augmentation(image, label, rng())
    assert not np.array_equal(new_image, image)
    assert np.array_equal(new_label, label) == (field == "intensity")
    assert (new_image.dtype, new_image.shape, new_label.dtype) == (np.float32, image.shape, np.uint8)
    assert new_image.flags.c_contiguous and new_label.flags.c_contiguous
    same = augmentation(image, label, rng())
    assert np.array_equal(same[0], new_image) and np.array_equal(same[1], new_label)
    assert not np.array_equal(augmentation(image, label, rng(2))[0], new_image) or field.startswith("flip")


def test_recipes():
    assert SliceAugmentation.from_recipe(load_recipe("unet2d_lgg")) == SliceAugmentation(0.05, 15.0, 0.5)
    assert SliceAugmentation.from_recipe(load_recipe("unet2d_em")) == SliceAugmentation(
        flip_x=0.5, flip_y=0.5, elastic=0.03, intensity=0.1, mirrored=True)


def test_nothing_changes_nothing():
    image, label = picture()
    new_image, new_label = SliceAugmentation()(image, label, rng())
    assert np.array_equal(new_image, image) and np.array_equal(new_label, label)


def test_flips_are_exact_and_as_frequent_as_asked_for():
    image, label = picture()
    for settings, flipped in (({"flip_x": 1}, np.s_[..., ::-1]), ({"flip_y": 1}, np.s_[..., ::-1, :])):
        new_image, new_label = SliceAugmentation(**settings)(image, label, rng())
        assert np.array_equal(new_image, image[flipped]) and np.array_equal(new_label, label[flipped])
    both = SliceAugmentation(flip_x=0.5, flip_y=0.25)
    drawn = [both(image, label, rng(seed))[0] for seed in range(400)]
    left = np.mean([array[1, 0, 0] > array[1, 0, -1] for array in drawn])
    top = np.mean([array[0, 0, 0] > array[0, -1, 0] for array in drawn])
    assert left == pytest.approx(0.5, abs=0.1) and top == pytest.approx(0.25, abs=0.09)


def test_a_turn_and_a_scale_by_hand():
    moves = np.zeros((2, 3, 3))
    quarter = source_positions((5, 5), 1.0, np.pi / 2, moves)  # R (y, x) = (-x, y)
    np.testing.assert_allclose(quarter[:, 0, 1], [3, 0], atol=1e-6)  # (-2, -1) from the centre comes from (1, -2)
    doubled = source_positions((5, 9), 2.0, 0.0, moves)
    np.testing.assert_allclose(doubled[:, 0, 0], [1, 2], atol=1e-6)  # 2 and 4 from the centre: half of that
    np.testing.assert_allclose(doubled[:, 2, 4], [2, 4], atol=1e-6)


def test_scale_and_rotation_stay_in_their_ranges():
    """Of channels that hold row and column the map can be read off, near the centre."""
    image, label = picture()
    for seed in range(20):
        scaled, _ = SliceAugmentation(scale_range=0.05)(image, label, rng(seed))
        assert 1 / 1.05 - 1e-3 <= scaled[0, 17, 20] - scaled[0, 16, 20] <= 1 / 0.95 + 1e-3
        turned, _ = SliceAugmentation(rotation=15)(image, label, rng(seed))
        row, column = turned[:, 17, 20] - turned[:, 16, 20]
        assert np.hypot(row, column) == pytest.approx(1, abs=1e-3)
        assert abs(np.degrees(np.arctan2(column, row))) <= 15.01


def test_the_label_goes_with_the_picture():
    image, label = picture()
    image[0] = label
    full = SliceAugmentation(0.1, 20, 0.5, 0.5, 0.05, mirrored=True)
    for seed in range(5):
        new_image, new_label = full(image, label, rng(seed))
        assert np.array_equal(new_label, new_image[0] >= 0.5)


def test_control_points_move_by_what_was_drawn():
    """The spline passes through the control points: corners, middles of the edges, and the centre."""
    moves = rng().uniform(-3, 3, (2, 3, 3))
    positions = source_positions((33, 41), 1.0, 0.0, moves)
    for i, row in enumerate((0, 16, 32)):
        for j, column in enumerate((0, 20, 40)):
            np.testing.assert_allclose(positions[:, row, column], moves[:, i, j] + [row, column], atol=1e-4)
    image, label = picture(65, 65)
    moved, _ = SliceAugmentation(elastic=0.1)(image, label, rng(1))
    assert np.abs(moved[:, 32, 32] - 32).max() <= 6.5


def test_what_lies_beyond_the_edges():
    image = np.full((2, 20, 20), 5.0, np.float32)
    image[:, :, 4:16] = 9
    image[:, 4:16] = 9  # corners of 5
    image[1] += 1
    label = np.ones((20, 20), np.uint8)
    turn = SliceAugmentation(rotation=180)
    seed = next(seed for seed in range(999) if 40 < abs(180 * rng(seed).uniform(-1, 1, 2)[1]) < 50)
    new_image, new_label = turn(image, label, rng(seed))
    assert (new_image[0, 0, 0], new_image[1, 0, 0], new_label[0, 0]) == (5, 6, 0)
    mirrored = dataclasses.replace(turn, mirrored=True)
    assert mirrored(image, label, rng(seed))[1].all()


def test_intensities_by_channel():
    image, label = np.stack([np.zeros((4, 4)), np.ones((4, 4))]).astype(np.float32), np.zeros((4, 4), np.uint8)
    for seed in range(20):
        (dark, bright), _ = SliceAugmentation(intensity=0.1)(image, label, rng(seed))
        assert abs(dark[0, 0]) <= 0.1 and 0.8 <= bright[0, 0] <= 1.2 and np.ptp(dark) == np.ptp(bright) == 0
