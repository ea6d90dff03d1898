"""Thresholding and the largest component, on masks small enough to count by hand."""

import numpy as np
import pytest

from src.inference.postprocess import Postprocess, largest_component, most_probable_class, probability_to_mask
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
