"""Mirrored copies, with predictors whose answer depends on where a voxel lies."""

import weakref

import numpy as np
import pytest

from src.inference.tta import MirrorPredictor
from tests.inference.helpers import FunctionPredictor

SHAPE = (4, 5, 6)
RNG = np.random.default_rng(2)
IMAGE, RAMP = RNG.random((2, *SHAPE)).astype(np.float32)


def position_dependent() -> FunctionPredictor:
    return FunctionPredictor(lambda image: image * RAMP)


def test_one_axis_by_hand():
    found = MirrorPredictor(position_dependent(), "x").predict_block(IMAGE)
    # Voxel x sees the ramp at x and, in the mirrored copy, at 3 - x.
    np.testing.assert_allclose(found, IMAGE * (RAMP + RAMP[::-1]) / 2, atol=1e-7)
    assert np.abs(found - IMAGE * RAMP).max() > 0.1
    assert found.dtype == np.float32


@pytest.mark.parametrize(("axes", "copies"), [("y", 2), ("xz", 4), ("xyz", 8)])
def test_all_subsets_of_the_axes(axes, copies):
    inner = position_dependent()
    found = MirrorPredictor(inner, axes).predict_block(IMAGE)
    ramp = RAMP.astype(float)
    for axis in ("xyz".index(name) for name in axes):
        ramp = (ramp + np.flip(ramp, axis)) / 2  # the mean over subsets is a product of means over axes
    np.testing.assert_allclose(found, IMAGE * ramp, atol=1e-6)
    assert len(inner.blocks) == len({block.tobytes() for block in inner.blocks}) == copies
    np.testing.assert_array_equal(inner.blocks[0], IMAGE)
    assert all(block.flags.c_contiguous for block in inner.blocks)


def test_channels_and_classes_are_not_mirrored():
    def classes(image):
        return np.stack((image[0] * RAMP, 1 - image[0] * RAMP, image[1]))

    image = np.stack((IMAGE, IMAGE ** 2))
    found = MirrorPredictor(FunctionPredictor(classes), "z").predict_block(image)
    ramp = (RAMP + RAMP[:, :, ::-1]) / 2
    np.testing.assert_allclose(found, np.stack((IMAGE * ramp, 1 - IMAGE * ramp, IMAGE ** 2)), atol=1e-6)


def test_answers_are_summed_and_not_kept():
    alive: list[weakref.ref] = []

    def answer(image):
        assert sum(reference() is not None for reference in alive) == 0
        result = np.ones_like(image)
        alive.append(weakref.ref(result))
        return result

    inner = FunctionPredictor(answer)
    inner.predict_block = answer
    np.testing.assert_array_equal(MirrorPredictor(inner, "xyz").predict_block(IMAGE), 1)
    assert len(alive) == 8


def test_the_answer_of_the_predictor_is_left_alone():
    kept = np.ones(SHAPE, np.float32)
    inner = FunctionPredictor(np.copy)
    inner.predict_block = lambda image: kept
    MirrorPredictor(inner, "x").predict_block(IMAGE)
    np.testing.assert_array_equal(kept, 1)


@pytest.mark.parametrize("axes", ["", "none", "xx", "w"])
def test_unknown_axes(axes):
    with pytest.raises(ValueError, match="expected any of x, y and z"):
        MirrorPredictor(position_dependent(), axes)
