"""Batch norm over the ranks against MindSpore's own on the batches of all ranks together."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.ops import select
from src.ops.norm import SyncBatchNorm3d, batch_norm
from src.ops.select import UnitOptions
from src.ops.unit import ConvUnit

SHAPE = (2, 3, 4, 6, 5)


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
        norm.bn2d.gamma.set_data(Tensor([0.5, 2.0, -1.0], ms.float32))
        norm.bn2d.beta.set_data(Tensor([1.0, 0.0, 3.0], ms.float32))
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
    assert isinstance(batch_norm(4), nn.BatchNorm3d) and not isinstance(batch_norm(4), SyncBatchNorm3d)
    assert [p.name for p in batch_norm(4, 2).get_parameters()] == [p.name for p in batch_norm(4).get_parameters()]


def test_units_with_shared_statistics_leave_the_fused_kernel(two_equal_ranks, kernels_in_use, monkeypatch):
    assert ConvUnit(16, 16, 5).fused is not None
    monkeypatch.setattr(select, "_options", UnitOptions(norm_ranks=2))
    unit = ConvUnit(16, 16, 5, act="elu")
    assert unit.fused is None and isinstance(unit.norm, SyncBatchNorm3d)
    assert ConvUnit(16, 16, 5, norm=False).fused is not None
