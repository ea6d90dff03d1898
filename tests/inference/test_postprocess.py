"""Thresholding and the largest component, on masks small enough to count by hand."""

import numpy as np
import pytest
from scipy import ndimage

from src.inference.postprocess import (
    Postprocess,
    largest_component,
    most_probable_class,
    open_slices,
    probability_to_mask,
)
from src.overrides import load_recipe


def test_threshold_is_exclusive():
    probability = np.array([0.0, 0.49, 0.5, 0.51, 1.0], np.float32).reshape(1, 1, 5)
    mask = probability_to_mask(probability)
    assert mask.dtype == np.uint8
    assert mask.ravel().tolist() == [0, 0, 0, 1, 1]
    assert probability_to_mask(probability, 0.4).ravel().tolist() == [0, 1, 1, 1, 1]


def test_largest_component_wins():
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[0, 0, :2] = 1  # 2 voxels, first in memory
    mask[3, 1:4, 3] = 1  # 3 voxels
    expected = np.zeros_like(mask)
    expected[3, 1:4, 3] = 1
    np.testing.assert_array_equal(largest_component(mask), expected)


@pytest.mark.parametrize("second", [(1, 1, 0), (1, 1, 1)], ids=["edge", "corner"])
def test_edges_and_corners_do_not_connect(second):
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[second] = True
    result = largest_component(mask)
    assert result.sum() == 1
    assert result[0, 0, 0] == 1  # equal sizes: the first in memory order


def test_faces_connect_along_every_axis():
    mask = np.zeros((3, 3, 3), np.uint8)
    mask[1, 1, :] = mask[1, :, 1] = mask[:, 1, 1] = 1
    np.testing.assert_array_equal(largest_component(mask), mask)


def test_small_foreground_beats_the_background():
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[5, 5, 5] = 1
    assert largest_component(mask).sum() == 1


def test_empty_stays_empty_and_full_stays_full():
    assert largest_component(np.zeros((3, 4, 5), np.uint8)).sum() == 0
    assert largest_component(np.full((3, 4, 5), 7)).tolist() == np.ones((3, 4, 5), int).tolist()


def test_input_is_left_alone():
    mask = np.zeros((3, 3, 3), np.uint8)
    mask[0, 0, 0] = mask[2, 2, 2] = 1
    largest_component(mask)
    assert mask.sum() == 2


def test_most_probable_class():
    #                        0    tie  tie  1    2    all equal
    probability = np.array([[0.5, 0.4, 0.2, 0.1, 0.3, 0.25],
                            [0.3, 0.4, 0.4, 0.7, 0.3, 0.25],
                            [0.2, 0.2, 0.4, 0.2, 0.4, 0.25]], np.float32).reshape(3, 1, 2, 3)
    mask = most_probable_class(probability)
    assert mask.dtype == np.uint8
    assert mask.shape == (1, 2, 3)
    assert mask.ravel().tolist() == [0, 0, 1, 1, 2, 0]
    many = np.random.default_rng(0).random((5, 4, 5, 6)).astype(np.float32)
    before = many.copy()
    np.testing.assert_array_equal(most_probable_class(many), many.argmax(axis=0))
    np.testing.assert_array_equal(many, before)


def test_largest_component_of_all_classes_together():
    truth = np.zeros((6, 3, 3), np.uint8)
    truth[0:2, 1, 1] = 1  # two voxels, beside two of class 2: a component of four
    truth[2:4, 1, 1] = 2
    truth[5] = 0
    truth[5, :, 0] = 1  # three voxels of class 1: its largest, but not of the foreground
    probability = np.stack([(truth == number) * 0.9 + 0.05 for number in range(3)]).astype(np.float32)
    np.testing.assert_array_equal(Postprocess(largest_component=False).mask(probability), truth)
    expected = truth.copy()
    expected[5] = 0
    found = Postprocess().mask(probability)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_recipe_says_whether_only_the_largest_component_is_kept():
    assert Postprocess.from_recipe(load_recipe()) == Postprocess()
    assert Postprocess.from_recipe(load_recipe("unet3d_brain")) == Postprocess()  # has no such key
    recipe = load_recipe(overrides=["largest_component=false"])
    probability = np.zeros((3, 3, 3), np.float32)
    probability[0, 0, 0], probability[2, 2, 1:] = 0.9, 0.6
    assert Postprocess.from_recipe(recipe).mask(probability).sum() == 3
    assert Postprocess.from_recipe(load_recipe()).mask(probability).sum() == 2


def test_postprocess_options():
    probability = np.zeros((3, 3, 3), np.float32)
    probability[0, 0, 0], probability[2, 2, 1:] = 0.9, 0.6
    assert Postprocess().mask(probability).sum() == 2
    assert Postprocess(largest_component=False).mask(probability).sum() == 3
    assert Postprocess(threshold=0.7).mask(probability)[0, 0, 0] == 1


def test_threshold_of_the_recipe():
    probability = np.zeros((4, 4, 4), np.float32)
    probability[1:3, 1:3, 1:3] = 0.45
    assert Postprocess.from_recipe({}).threshold == 0.5
    assert Postprocess.from_recipe(load_recipe()).mask(probability).sum() == 0
    assert Postprocess.from_recipe(load_recipe(overrides=["threshold=0.4"])).mask(probability).sum() == 8


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    x, y = np.indices(shape)
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2


def test_opening_cuts_off_a_tongue_and_leaves_the_body():
    body = disc((60, 60), (25, 25), 15.2)
    slice_ = body.copy()
    slice_[25:55, 23:28] = True  # 5 wide, 15 beyond the body
    mask = np.stack([np.zeros_like(body), slice_], axis=2).astype(np.uint8)
    opened = open_slices(mask, 0.3)
    assert opened.dtype == np.uint8
    assert not opened[..., 0].any()
    # The disc of the opening, of radius 0.3 * sqrt(800 / pi) = 4.8, is nine wide, and reaches into the tongue's root.
    assert not opened[44:, :, 1].any()
    assert opened[..., 1][body].sum() >= 0.99 * body.sum()
    assert not (opened & ~mask.astype(bool)).any()
    # A smaller disc, of radius 2.4, fits into the tongue.
    np.testing.assert_array_equal(open_slices(mask, 0.15)[20:54, 25, 1], 1)


def test_opening_is_that_by_the_disc():
    mask = np.random.default_rng(3).random((40, 30)) < 0.97
    mask &= disc(mask.shape, (20, 12), 14)
    radius = 0.15 * np.sqrt(mask.sum() / np.pi)
    reach = int(radius)
    structure = disc((2 * reach + 1, 2 * reach + 1), (reach, reach), radius)
    expected = ndimage.binary_opening(mask, structure)
    assert 0 < expected.sum() < mask.sum()
    np.testing.assert_array_equal(open_slices(mask[..., np.newaxis], 0.15)[..., 0], expected)


def test_opening_goes_by_the_size_of_each_slice():
    small, large = disc((60, 60), (30, 30), 3.2), disc((60, 60), (30, 30), 20.2)
    mask = np.stack([small, large, np.zeros_like(small), small], axis=2)
    np.testing.assert_array_equal(open_slices(mask, 0.4), mask)  # by 0.4 of the large one's radius none would be left
    assert not open_slices(np.zeros((4, 4, 2)), 0.5).any()


def test_a_slice_without_room_for_the_disc_stays():
    mask = np.zeros((40, 5, 1), np.uint8)
    mask[:, 2] = 1  # one wide: the disc of radius 0.5 * sqrt(40 / pi) = 1.8 fits nowhere
    np.testing.assert_array_equal(open_slices(mask, 0.5), mask)


def test_at_the_border_there_is_background_beyond():
    mask = np.ones((20, 20, 1), np.uint8)
    opened = open_slices(mask, 0.5)  # radius 5.6: the corners alone are cut off
    assert not opened[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert opened[:, 10].all() and opened[10].all()


def test_opening_of_the_recipe_comes_before_the_largest_component():
    body, tongue = disc((60, 60), (20, 20), 12), np.zeros((60, 60), bool)
    tongue[20:45, 19:22] = True
    lump = disc((60, 60), (48, 20), 6)  # hangs on the tongue
    probability = (body | tongue | lump).astype(np.float32)[..., np.newaxis]
    kept = Postprocess.from_recipe(load_recipe(overrides=["opening=0.3"])).mask(probability)
    assert kept[48, 20, 0] == 0 and kept[20, 20, 0] == 1
    assert Postprocess.from_recipe(load_recipe()).mask(probability)[48, 20, 0] == 1
    both = Postprocess(largest_component=False, opening=0.3).mask(probability)
    assert both[48, 20, 0] == both[20, 20, 0] == 1 and both[38, 20, 0] == 0


@pytest.mark.parametrize("island", [10, 14, 18, 22])
def test_an_island_beside_the_end_of_an_organ_does_not_make_the_disc_larger(island):
    organ = np.stack([disc((120, 60), (25, 30), radius) for radius in (4, 6, 8, 10, 12, 14, 16)], axis=2)
    beside = np.zeros_like(organ)
    beside[..., :2] = disc((120, 60), (90, 30), island)[..., np.newaxis]
    if island == 22:
        organ[..., 3:] |= disc((120, 60), (25, 30), 22)[..., np.newaxis]  # the largest all the same
    kept = Postprocess(opening=0.3).mask((organ | beside).astype(np.float32))
    np.testing.assert_array_equal(kept, Postprocess(opening=0.3).mask(organ.astype(np.float32)))
    assert kept[..., 0].sum() >= 0.8 * organ[..., 0].sum()


def test_opening_of_several_classes_keeps_them_and_their_islands():
    """A slice without room for the disc, and no largest component: the mask is as it was, classes and all."""
    classes = np.zeros((40, 5, 2), int)
    classes[:, 2, 0], classes[:20, 2, 0] = 3, 2
    classes[:4, :4, 1], classes[30:34, :4, 1] = 1, 3
    probability = np.stack([classes == number for number in range(4)]).astype(np.float32)
    kept = Postprocess(largest_component=False, opening=0.5).mask(probability)
    np.testing.assert_array_equal(kept[..., 0], classes[..., 0])
    assert kept[1, 1, 1] == 1 and kept[31, 1, 1] == 3


def test_opening_of_several_classes_is_that_of_their_union():
    body, tongue = disc((60, 60), (20, 20), 12), np.zeros((60, 60), bool)
    tongue[30:50, 19:22] = True
    classes = np.where(body | tongue, 1, 0)
    classes[body & (np.indices((60, 60))[1] > 20)] = 2  # half of the body
    probability = np.stack([classes == number for number in range(3)]).astype(np.float32)[..., np.newaxis]
    kept = Postprocess(opening=0.3).mask(probability)[..., 0]
    assert not kept[40:].any()
    np.testing.assert_array_equal(kept[:30], classes[:30])
