"""Windows: where they lie, how they are blended, and that nothing is stacked."""

import itertools
import tracemalloc
import weakref

import numpy as np
import pytest

from src.inference.sliding_window import FLOOR, WindowPredictor, axis_weights, gaussian, window_starts
from tests.inference.helpers import FunctionPredictor


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).random(shape).astype(np.float32)


@pytest.mark.parametrize(("length", "window", "overlap", "starts"), [
    (10, 4, 0.5, [0, 2, 4, 6]),
    (11, 4, 0.5, [0, 2, 4, 5, 7]),  # 7 voxels in 4 steps of 1.75
    (12, 4, 0.0, [0, 4, 8]),
    (13, 4, 0.0, [0, 3, 6, 9]),
    (4, 4, 0.5, [0]),
    (5, 4, 0.5, [0, 1]),
    (20, 10, 0.9, list(range(11))),
    (6, 4, 0.99, [0, 1, 2]),  # a voxel at least
])
def test_places_of_windows(length, window, overlap, starts):
    assert window_starts(length, window, overlap) == starts


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_windows_cover_the_axis_evenly(overlap):
    for length in range(16, 80):
        starts = np.array(window_starts(length, 16, overlap))
        steps = np.diff(starts)
        assert starts[0] == 0
        assert starts[-1] == length - 16
        if len(steps):
            assert steps.min() >= 1
            assert steps.max() <= 16 * (1 - overlap)
            assert steps.max() - steps.min() <= 1


def test_gaussian_of_an_eighth_of_the_edge():
    weights = gaussian(64)
    np.testing.assert_allclose(weights[[31, 32]], np.exp(-0.5 * (0.5 / 8) ** 2), rtol=1e-12)
    np.testing.assert_allclose(weights[40], np.exp(-0.5 * (8.5 / 8) ** 2), rtol=1e-12)
    assert weights[0] == weights[63] == FLOOR  # exp(-0.5 * (31.5 / 8)²) = 0.00043 is below it
    np.testing.assert_array_equal(weights, weights[::-1])


@pytest.mark.parametrize(("length", "overlap"), [(16, 0.5), (17, 0.5), (45, 0.5), (45, 0.0), (63, 0.8)])
def test_weights_of_all_windows_sum_to_one(length, overlap):
    total = np.zeros(length)
    for place, weights in axis_weights(length, 16, overlap):
        assert weights.min() > 0
        total[place] += weights
    np.testing.assert_allclose(total, 1, atol=2e-7)


def test_predictor_that_knows_no_position_is_blended_exactly():
    inner = FunctionPredictor(lambda image: image ** 2)
    volume = noise(21, 16, 30)
    np.testing.assert_allclose(WindowPredictor(inner, (8, 16, 12)).predict_block(volume), volume ** 2, atol=5e-7)
    assert {block.shape for block in inner.blocks} == {(8, 16, 12)}
    assert len(inner.blocks) == 5 * 1 * 4


def test_blend_is_the_weighted_mean_of_the_windows():
    ramp = noise(6, 4, 4)
    volume = noise(9, 7, 4)
    found = WindowPredictor(FunctionPredictor(lambda image: image * ramp), (6, 4, 4), 0.5).predict_block(volume)
    weight = np.einsum("i,j,k->ijk", *(gaussian(edge) for edge in (6, 4, 4)))
    top, bottom = np.zeros(volume.shape), np.zeros(volume.shape)
    for x, y in itertools.product((0, 3), (0, 2, 3)):  # written out: 3 voxels in a step of 3; in two of at most 2
        place = slice(x, x + 6), slice(y, y + 4), slice(0, 4)
        top[place] += weight * ramp * volume[place].astype(float)
        bottom[place] += weight
    np.testing.assert_allclose(found, top / bottom, atol=1e-6)
    assert np.abs(found - volume * ramp.mean()).max() > 0.05


def test_volume_of_the_windows_size_is_one_plain_call():
    ramp, volume = noise(8, 8, 8), noise(8, 8, 8)
    plain = FunctionPredictor(lambda image: image * ramp)
    windowed = FunctionPredictor(lambda image: image * ramp)
    found = WindowPredictor(windowed, [8, 8, 8]).predict_block(volume)
    np.testing.assert_array_equal(found, plain.predict_block(volume))
    assert len(windowed.blocks) == 1
    assert windowed.blocks[0] is volume


def test_voxels_of_a_single_window_are_that_windows_answer():
    ramp, volume = noise(8, 8, 8), noise(12, 8, 8)
    found = WindowPredictor(FunctionPredictor(lambda image: image * ramp), (8, 8, 8)).predict_block(volume)
    np.testing.assert_array_equal(found[:4], volume[:4] * ramp[:4])
    np.testing.assert_array_equal(found[8:], volume[8:] * ramp[4:])


def test_small_volume_is_padded_with_its_lowest_value_and_cut_back():
    volume = noise(5, 8, 11) - 2  # small along x, as the window along y, larger along z
    inner = FunctionPredictor(lambda image: image / 2)
    found = WindowPredictor(inner, (8, 8, 8)).predict_block(volume)
    assert found.shape == volume.shape
    np.testing.assert_allclose(found, volume / 2, atol=1e-6)
    assert {block.shape for block in inner.blocks} == {(8, 8, 8)}
    first = inner.blocks[0]
    np.testing.assert_array_equal(first[1:6], volume[:, :, :8])
    assert set(first[[0, 6, 7]].ravel().tolist()) == {volume.min().item()}


def test_channels_and_classes():
    def classes(image):  # three classes of an image of two channels
        foreground = image[0] * image[1]
        return np.stack((1 - foreground, foreground / 4, 3 * foreground / 4))

    volume = noise(2, 12, 10, 8)
    inner = FunctionPredictor(classes)
    found = WindowPredictor(inner, (8, 8, 8)).predict_block(volume)
    assert found.shape == (3, 12, 10, 8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, classes(volume), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
    assert {block.shape for block in inner.blocks} == {(2, 8, 8, 8)}
    small = WindowPredictor(inner, (8, 16, 8)).predict_block(volume)
    np.testing.assert_allclose(small, classes(volume), atol=1e-6)


def test_memory_is_that_of_the_sum_and_of_one_window():
    volume = noise(64, 64, 64)
    alive: list[weakref.ref] = []

    def answer(image):
        assert all(reference() is None for reference in alive), "an earlier window's answer is still held"
        result = np.full_like(image, 0.5)
        alive[:] = [weakref.ref(result)]
        return result

    inner = FunctionPredictor(answer)
    inner.predict_block = answer  # the helper would keep the blocks
    predictor = WindowPredictor(inner, (16, 16, 16), 0.5)
    tracemalloc.start()
    predictor.predict_block(volume)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    window = 16 ** 3 * 4
    assert volume.nbytes <= peak < volume.nbytes + 5 * window  # of 343 windows


def test_blocks_given_on_are_plain_arrays():
    inner = FunctionPredictor(lambda image: image)
    WindowPredictor(inner, (8, 8, 8)).predict_block(noise(10, 10, 10))
    assert all(block.flags.c_contiguous for block in inner.blocks)


@pytest.mark.parametrize(("window", "overlap"), [((8, 8), 0.5), ((8, 8, 0), 0.5), ((8, 8, 8), 1.0), ((8, 8, 8), -0.1)])
def test_senseless_windows(window, overlap):
    with pytest.raises(ValueError, match="expected three sizes above 0 and a share below 1"):
        WindowPredictor(FunctionPredictor(np.copy), window, overlap)
