"""The references themselves, by finite differences and by hand."""

import numpy as np
import pytest

from tests.ops import reference as ref

RNG = np.random.default_rng(0)


def difference_quotient(function, x: np.ndarray, weights: np.ndarray, index: tuple[int, ...]) -> float:
    step = np.zeros_like(x)
    step[index] = 1e-5
    return float(((function(x + step) - function(x - step)) * weights).sum() / 2e-5)


def test_conv_by_hand():
    x, weight = np.arange(4.0).reshape(1, 1, 4), np.array([1.0, 10.0, 100.0]).reshape(1, 1, 3)
    # out[i] = x[i-1] + 10 x[i] + 100 x[i+1]
    assert ref.conv(x, weight, padding=1).ravel().tolist() == [100, 210, 321, 32]
    assert ref.conv(x, weight[..., :2], stride=2).ravel().tolist() == [10, 32]
    assert ref.conv_transpose(x, weight[..., :2], 2).ravel().tolist() == [0, 0, 1, 10, 2, 20, 3, 30]


@pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 1, 3), (2, 0, 2), (1, 2, 5)])
def test_conv_gradients(stride, padding, kernel):
    x, weight = RNG.normal(size=(2, 2, 4, 6)), RNG.normal(size=(3, 2, kernel, kernel))
    dy = RNG.normal(size=ref.conv(x, weight, stride, padding).shape)
    dx, dweight = ref.conv_gradients(x, weight, dy, stride, padding)
    index = (1, 1, 2, 1)
    assert dx[index] == pytest.approx(difference_quotient(lambda v: ref.conv(v, weight, stride, padding), x, dy, index))
    index = (2, 1, 1, 0)
    assert dweight[index] == pytest.approx(
        difference_quotient(lambda v: ref.conv(x, v, stride, padding), weight, dy, index))


def test_conv_transpose_gradients():
    x, weight = RNG.normal(size=(2, 3, 2, 3)), RNG.normal(size=(3, 2, 2, 2))
    dy = RNG.normal(size=(2, 2, 4, 6))
    dx, dweight = ref.conv_transpose_gradients(x, weight, dy, 2)
    assert dx[1, 2, 1, 1] == pytest.approx(
        difference_quotient(lambda v: ref.conv_transpose(v, weight, 2), x, dy, (1, 2, 1, 1)))
    assert dweight[2, 1, 1, 0] == pytest.approx(
        difference_quotient(lambda v: ref.conv_transpose(x, v, 2), weight, dy, (2, 1, 1, 0)))


def test_batch_norm_and_activation_gradients():
    y, dz, gamma, beta = RNG.normal(size=(3, 2, 5)), RNG.normal(size=(3, 2, 5)), np.array([0.5, 2.0]), np.ones(2)
    dy, dgamma, dbeta = ref.batch_norm_gradients(y, gamma, 1e-5, dz)
    assert dy[1, 1, 2] == pytest.approx(
        difference_quotient(lambda v: ref.batch_norm(v, gamma, beta, 1e-5), y, dz, (1, 1, 2)))
    assert dgamma[1] == pytest.approx(difference_quotient(lambda v: ref.batch_norm(y, v, beta, 1e-5), gamma, dz, (1,)))
    assert dbeta[0] == pytest.approx(difference_quotient(lambda v: ref.batch_norm(y, gamma, v, 1e-5), beta, dz, (0,)))
    for name in ("elu", "prelu"):
        dx, dslope = ref.act_gradients(name, y, dz, gamma)
        assert dx[2, 0, 3] == pytest.approx(difference_quotient(lambda v: ref.act(name, v, gamma), y, dz, (2, 0, 3)))  # noqa: B023
    assert dslope[0] == pytest.approx(difference_quotient(lambda v: ref.act("prelu", y, v), gamma, dz, (0,)))
