"""Channel dropout: shares, scaling, and masks that repeat from a counter."""

import numpy as np
import pytest
from mindspore import Tensor, nn

from src.ops import ChannelDropout


def masks(layer: nn.Cell, count: int, shape=(4, 64, 1, 1, 1)) -> np.ndarray:
    layer.set_train()
    return np.stack([layer(Tensor(np.ones(shape, np.float32))).asnumpy() for _ in range(count)])


def test_whole_channels_are_zeroed_and_the_rest_scaled():
    layer = ChannelDropout(0.25, seed=3)
    layer.set_train()
    out = layer(Tensor(np.ones((8, 32, 2, 3, 2), np.float32))).asnumpy().reshape(8, 32, -1)
    assert np.all(out == out[:, :, :1])
    assert set(np.unique(out)) == {np.float32(0), np.float32(4 / 3)}


@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_share_and_independence(probability):
    """Binomial bounds (5 standard deviations) on the drop rate, and on pairs of neighbours in each direction."""
    dropped = masks(ChannelDropout(probability, seed=1), 60)[..., 0, 0, 0] == 0  # (steps, samples, channels)
    bound = 5 * np.sqrt(probability * (1 - probability) / dropped.size)
    assert abs(dropped.mean() - probability) < bound
    # The number dropped in a sample must vary as a binomial's does: a low-discrepancy sequence would vary less.
    variance = dropped.sum(axis=2).var()
    assert variance == pytest.approx(64 * probability * (1 - probability), rel=0.45)
    for axis in range(3):
        first, second = (np.take(dropped, range(start, dropped.shape[axis] - 1 + start), axis) for start in (0, 1))
        assert abs((first & second).mean() - probability**2) < 5 * np.sqrt(probability**2 / first.size)


def test_masks_continue_from_the_counter():
    one = masks(ChannelDropout(0.5, seed=7), 6)
    resumed = ChannelDropout(0.5, seed=7)
    resumed.counter.set_data(Tensor(4, resumed.counter.dtype))
    assert np.array_equal(masks(resumed, 2), one[4:])
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(masks(ChannelDropout(0.5, seed=8), 1)[0], one[0])


def test_nothing_happens_at_evaluation():
    layer = ChannelDropout(0.5, seed=1)
    layer.set_train(False)
    x = np.random.default_rng(0).normal(size=(1, 4, 2, 2, 2)).astype(np.float32)
    assert np.array_equal(layer(Tensor(x)).asnumpy(), x)
    assert layer.counter.asnumpy() == 0


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_probability_out_of_range(probability):
    with pytest.raises(ValueError, match="0 <= probability < 1"):
        ChannelDropout(probability, seed=1)
