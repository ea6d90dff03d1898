"""Batch norm: volumes against float64; over the ranks against MindSpore's own on the batches of all ranks together."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.ops import select
from src.ops.norm import InstanceNorm3d, SyncBatchNorm3d, VolumeNorm, build_norm
from src.ops.select import UnitOptions
from src.ops.unit import ConvUnit

SHAPE = (2, 3, 4, 6, 5)
GAMMA, BETA = np.array([0.5, 2.0, -1.0], np.float32), np.array([1.0, 0.0, 3.0], np.float32)


class Twice(nn.Cell):
    """The sum over two ranks that have the same batch; its gradient too is the sum over both."""

    def construct(self, x):
        return 2 * x


class Weighted(nn.Cell):
    """The sum of weights times the normalised volume."""

    def __init__(self, norm, weights):
        super().__init__()
        self.norm = norm
        self.weights = Tensor(weights)

    def construct(self, x):
        return (self.norm(x) * self.weights).sum()


@pytest.fixture
def two_equal_ranks(monkeypatch):
    monkeypatch.setattr(ops, "AllReduce", lambda op: Twice())


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=request.param)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def gradients(norm: nn.Cell, x: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Return the gradients at x, gamma and beta of the weighted sum, in training."""
    cell = Weighted(norm, weights)
    cell.set_train()
    dx, (dgamma, dbeta) = ops.GradOperation(get_all=True, get_by_list=True)(cell, norm.trainable_params())(Tensor(x))
    return [value.asnumpy() for value in (dx[0], dgamma, dbeta)]


def test_two_ranks_normalise_as_one_with_both_batches(two_equal_ranks, mode):
    rng = np.random.default_rng(1)
    # A mean far from zero: one-pass variances would lose digits here.
    x = rng.normal(30, 2, SHAPE).astype(np.float32)
    weights = rng.normal(size=SHAPE).astype(np.float32)
    whole, shared = nn.BatchNorm3d(3), SyncBatchNorm3d(3, 2)
    for norm in (whole, shared):
        norm.bn2d.gamma.set_data(Tensor(GAMMA))
        norm.bn2d.beta.set_data(Tensor(BETA))
    expected = gradients(whole, np.concatenate([x, x]), np.concatenate([weights, weights]))
    dx, dgamma, dbeta = gradients(shared, x, weights)
    np.testing.assert_allclose(dx, expected[0][:2], atol=2e-5)
    # Parameters get each rank's own part; the mean over ranks is taken with all other gradients.
    np.testing.assert_allclose(2 * dgamma, expected[1], rtol=2e-4, atol=1e-3)
    np.testing.assert_allclose(2 * dbeta, expected[2], rtol=1e-4, atol=1e-4)
    for name in ("moving_mean", "moving_variance"):
        found, wanted = (getattr(norm.bn2d, name).asnumpy() for norm in (shared, whole))
        assert np.abs(wanted - getattr(nn.BatchNorm3d(3).bn2d, name).asnumpy()).min() > 0.1
        np.testing.assert_allclose(found, wanted, rtol=1e-5)

    for norm in (whole, shared):
        norm.set_train(False)
    np.testing.assert_allclose(shared(Tensor(x)).asnumpy(), whole(Tensor(x)).asnumpy(), rtol=1e-5, atol=1e-5)


def test_names_are_those_of_batch_norm(two_equal_ranks):
    assert isinstance(build_norm(4), nn.BatchNorm3d) and not isinstance(build_norm(4), SyncBatchNorm3d)
    assert [p.name for p in build_norm(4, ranks=2).get_parameters()] == [p.name for p in build_norm(4).get_parameters()]


def test_units_with_shared_statistics_leave_the_fused_kernel(two_equal_ranks, kernels_in_use, monkeypatch):
    assert ConvUnit(16, 16, 5).fused is not None
    monkeypatch.setattr(select, "_options", UnitOptions(norm_ranks=2))
    unit = ConvUnit(16, 16, 5, act="elu")
    assert unit.fused is None and isinstance(unit.norm, SyncBatchNorm3d)
    assert ConvUnit(16, 16, 5, norm=False).fused is not None


def expected_norm(x: np.ndarray, weights: np.ndarray, relu: bool) -> list[np.ndarray]:
    """Return y, dx, dgamma and dbeta of Σ weights * y, in float64."""
    x, dy = x.astype(np.float64), weights.astype(np.float64)
    r = np.maximum(x, 0) if relu else x
    axes, gamma, beta = (0, 2, 3, 4), GAMMA.reshape(-1, 1, 1, 1), BETA.reshape(-1, 1, 1, 1)
    inverse = 1 / np.sqrt(r.var(axes, keepdims=True) + 1e-5)
    normalised = (r - r.mean(axes, keepdims=True)) * inverse
    dr = gamma * inverse * (dy - dy.mean(axes, keepdims=True)
                            - normalised * (dy * normalised).mean(axes, keepdims=True))
    return [gamma * normalised + beta, dr * (x > 0) if relu else dr, (dy * normalised).sum(axes), dy.sum(axes)]


@pytest.mark.parametrize("size", [(4, 6, 5), (1, 3, 1), (32, 16, 17)], ids=str)
@pytest.mark.parametrize("relu", [False, True])
def test_volume_norm_against_float64(relu, size, kernels_in_use, mode):
    rng = np.random.default_rng(2)
    x, weights = (rng.normal(0.5, 2, (2, 3, *size)).astype(np.float32) for _ in range(2))
    served = VolumeNorm(3, relu)
    with select.stock_kernels():
        stock = VolumeNorm(3, relu)
    assert served.served and not stock.served
    expected = expected_norm(x, weights, relu)
    for norm in (served, stock):
        norm.bn2d.gamma.set_data(Tensor(GAMMA))
        norm.bn2d.beta.set_data(Tensor(BETA))
        norm.set_train(True)
        found = [norm(Tensor(x)).asnumpy(), *gradients(norm, x, weights)]
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted, atol=3e-5 * np.abs(wanted).max() + 1e-5)
    for name in ("moving_mean", "moving_variance"):
        np.testing.assert_allclose(*(getattr(norm.bn2d, name).asnumpy() for norm in (served, stock)), rtol=1e-5)
    for norm in (served, stock):
        norm.set_train(False)
    np.testing.assert_allclose(served(Tensor(x)).asnumpy(), stock(Tensor(x)).asnumpy(), atol=3e-5)


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_instance_norm_against_float64(served, training, kernels_in_use, mode):
    """Each sample is normalised as a batch of its own would be, in evaluation as in training."""
    rng = np.random.default_rng(4)
    x, weights = (rng.normal(3, 2, (2, 3, 4, 6, 5)).astype(np.float32) for _ in range(2))
    norm = InstanceNorm3d(3)
    if not served:
        with select.stock_kernels():
            norm = InstanceNorm3d(3)
    assert (norm.kernel is not None) == served
    norm.gamma.set_data(Tensor(GAMMA))
    norm.beta.set_data(Tensor(BETA))
    norm.set_train(training)
    parts = [expected_norm(x[n:n + 1], weights[n:n + 1], relu=False) for n in range(2)]
    np.testing.assert_allclose(norm(Tensor(x)).asnumpy(), np.concatenate([part[0] for part in parts]), atol=1e-4)
    if training:
        dx, dgamma, dbeta = gradients(norm, x, weights)
        np.testing.assert_allclose(dx, np.concatenate([part[1] for part in parts]), atol=1e-4)
        np.testing.assert_allclose(dgamma, parts[0][2] + parts[1][2], rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(dbeta, parts[0][3] + parts[1][3], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_volume_norm_shows_what_is_no_number(bad, kernels_in_use):
    x = np.ones((1, 2, 3, 4, 5), np.float32)
    x[0, 1, 0, 0, 0] = bad
    norm = VolumeNorm(2, relu=True)
    norm.set_train(True)
    y = norm(Tensor(x)).asnumpy()
    assert np.isfinite(y[0, 0]).all()
    assert np.isfinite(y[0, 1]).all() == (bad == -np.inf)  # of which the ReLU makes 0


@pytest.mark.parametrize("served", [False, True])
def test_a_pass_that_does_not_count_leaves_the_moving_statistics(served, request):
    if served:
        request.getfixturevalue("kernels_in_use")
    image = np.random.default_rng(3).random((2, 4, 6, 5, 4), dtype=np.float32)
    norm = VolumeNorm(4)
    norm.set_train(True)
    uncounted = norm(Tensor(image), False).asnumpy()
    assert norm.bn2d.moving_mean.asnumpy().tolist() == [0, 0, 0, 0]
    counted = norm(Tensor(image), True).asnumpy()
    np.testing.assert_allclose(uncounted, counted, atol=1e-6)
    np.testing.assert_allclose(norm.bn2d.moving_mean.asnumpy(), 0.1 * image.mean(axis=(0, 2, 3, 4)), rtol=1e-4)
    norm.set_train(False)
    np.testing.assert_allclose(norm(Tensor(image), False).asnumpy(), norm(Tensor(image)).asnumpy())


@pytest.mark.parametrize("relu", [False, True])
def test_volume_norm_far_from_zero(relu, kernels_in_use):
    """A mean of 1000 standard deviations: sums of squares of such values in fp32 would lose the variance."""
    rng = np.random.default_rng(4)
    x = rng.normal(1000, 1, (2, 3, 16, 16, 17)).astype(np.float32)
    weights = rng.normal(size=x.shape).astype(np.float32)
    norm = VolumeNorm(3, relu)
    norm.bn2d.gamma.set_data(Tensor(GAMMA))
    norm.bn2d.beta.set_data(Tensor(BETA))
    norm.set_train(True)
    found = [norm(Tensor(x)).asnumpy(), *gradients(norm, x, weights)]
    for value, wanted in zip(found, expected_norm(x, weights, relu), strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-4 * np.abs(wanted).max())
