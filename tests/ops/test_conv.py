"""oneDNN's convolutions as custom operators: values and gradients against float64, in both modes of MindSpore."""

import itertools
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from numpy.lib.stride_tricks import sliding_window_view

from src.ops import select
from src.ops.conv import Conv2d, Conv2dTranspose, Conv3d, Conv3dTranspose

# Relative L2 error of fp32 sums over at most a few hundred products.
BOUND = 2e-6


@pytest.fixture(autouse=True)
def with_kernels(kernels_in_use) -> None:
    """All cells here are made with the kernels in use, but where a test says otherwise."""
    assert kernels_in_use.has_onednn


def convolve(x, weight, stride, begin, end):
    """The definition, in float64: (N, C, ...) and (out, in, k...)."""
    axes = range(2, x.ndim)
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *zip(begin, end, strict=True)])
    windows = sliding_window_view(x, weight.shape[2:], tuple(axes))
    windows = windows[(slice(None), slice(None), *(slice(None, None, step) for step in stride))]
    rank = len(axes)
    taps = range(2 + rank, 2 + 2 * rank)
    y = np.tensordot(windows, weight.astype(np.float64), ([1, *taps], [1, *axes]))
    return np.moveaxis(y, -1, 1)


def gradients(x, weight, dy, stride, begin, end):
    """Gradients of sum(dy * convolve(x, weight)) to x and weight, each tap of the kernel on its own."""
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *zip(begin, end, strict=True)])
    dx, dweight = np.zeros_like(padded), np.zeros(weight.shape)
    dy, summed = dy.astype(np.float64), (0, *range(2, x.ndim))
    for tap in itertools.product(*(range(k) for k in weight.shape[2:])):
        where = (slice(None), slice(None), *(slice(t, t + step * (n - 1) + 1, step)
                                             for t, step, n in zip(tap, stride, dy.shape[2:], strict=True)))
        dweight[(slice(None), slice(None), *tap)] = np.tensordot(dy, padded[where], (summed, summed))
        dx[where] += np.einsum("no...,oi->ni...", dy, weight[(slice(None), slice(None), *tap)].astype(np.float64))
    inner = tuple(slice(b, b + n) for b, n in zip(begin, x.shape[2:], strict=True))
    return dx[(slice(None), slice(None), *inner)], dweight


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


CASES = [
    # size, channels in and out, kernel, stride, begin, end
    ((7, 6, 5), 3, 4, (5, 5, 5), (1, 1, 1), (2, 2, 2), (2, 2, 2)),
    ((7, 6, 5), 16, 32, (5, 5, 5), (1, 1, 1), (2, 2, 2), (2, 2, 2)),
    ((4, 6, 8), 5, 7, (2, 2, 2), (2, 2, 2), (0, 0, 0), (0, 0, 0)),
    ((5, 7, 9), 32, 16, (2, 2, 2), (2, 2, 2), (0, 0, 0), (0, 0, 0)),
    ((6, 5, 4), 1, 16, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((6, 5, 9), 17, 2, (3, 1, 5), (2, 1, 2), (1, 0, 2), (0, 0, 1)),
    ((3, 4, 5), 6, 3, (1, 1, 1), (1, 1, 1), (0, 0, 0), (0, 0, 0)),
    ((3, 4, 5), 6, 3, (1, 1, 1), (2, 2, 2), (0, 0, 0), (0, 0, 0)),
    ((9, 8), 3, 5, (5, 5), (1, 1), (2, 2), (2, 2)),
    ((9, 8), 16, 16, (3, 3), (2, 2), (1, 1), (1, 1)),
    ((8, 6), 7, 9, (2, 2), (2, 2), (0, 0), (0, 0)),
    ((8, 7), 4, 4, (3, 5), (1, 2), (0, 2), (2, 1)),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_entries_against_float64(library, case, threads):
    size, channels, filters, kernel, stride, begin, end = case
    rng = np.random.default_rng(1)
    x, weight, bias = normal(rng, 3, channels, *size), normal(rng, filters, channels, *kernel), normal(rng, filters)
    expected = convolve(x, weight, stride, begin, end)
    dy = normal(rng, *expected.shape)
    axes = (0, *range(2, x.ndim))
    column = (-1, *(1,) * len(size))
    dx, dweight = gradients(x, weight, dy, stride, begin, end)
    before = library.threads
    library.set_threads(threads)
    try:
        config = np.array([len(size), 0, 0, *stride, *begin, *end], np.int64)
        found = [np.full(shape, np.nan, np.float32) for shape in (dy.shape, x.shape, weight.shape, bias.shape)]
        library.call("ConvForward", [config, x, weight, bias], found[:1])
        library.call("ConvBackwardData", [config, dy, weight, x], found[1:2])
        library.call("ConvBackwardWeights", [config, x, dy], found[2:])
        bounds = [expected + bias.reshape(column), dx, dweight, dy.astype(np.float64).sum(axes)]
        assert [relative(f, e) < BOUND for f, e in zip(found, bounds, strict=True)] == [True] * 4

        # The transposed convolution is the adjoint: its input is dy, its output has x's size, weights as they are.
        config[1], bias = 1, normal(rng, channels)
        found = [np.full(shape, np.nan, np.float32) for shape in (x.shape, dy.shape, weight.shape, bias.shape)]
        library.call("ConvForward", [config, dy, weight, bias], found[:1])
        library.call("ConvBackwardData", [config, x, weight, dy], found[1:2])
        library.call("ConvBackwardWeights", [config, dy, x], found[2:])
        bounds = [dx + bias.reshape(column), expected, dweight, x.astype(np.float64).sum(axes)]
        assert [relative(f, e) < BOUND for f, e in zip(found, bounds, strict=True)] == [True] * 4
    finally:
        library.set_threads(before)


CELLS = [
    (Conv3d, nn.Conv3d, (3, 4), {"kernel_size": 3, "stride": 1, "pad_mode": "same", "has_bias": True}, (2, 3, 5, 6, 7)),
    (Conv3d, nn.Conv3d, (3, 4), {"kernel_size": 3, "stride": 2, "pad_mode": "same"}, (2, 3, 5, 6, 7)),
    (Conv3d, nn.Conv3d, (3, 4), {"kernel_size": (2, 3, 1), "stride": (2, 1, 1), "pad_mode": "valid"}, (2, 3, 5, 6, 7)),
    (Conv3d, nn.Conv3d, (16, 4), {"kernel_size": 5, "pad_mode": "pad", "padding": (2, 2, 1, 0, 0, 2), "has_bias": True},
     (2, 16, 5, 6, 7)),
    (Conv3dTranspose, nn.Conv3dTranspose, (3, 4), {"kernel_size": 2, "stride": 2, "pad_mode": "pad", "has_bias": True},
     (2, 3, 3, 4, 5)),
    (Conv3dTranspose, nn.Conv3dTranspose, (3, 4), {"kernel_size": 3, "stride": 2, "pad_mode": "pad", "padding": 1,
                                                       "output_padding": 1}, (2, 3, 3, 4, 5)),
    (Conv3dTranspose, nn.Conv3dTranspose, (3, 4), {"kernel_size": 3, "stride": 2, "pad_mode": "same", "has_bias": True},
     (2, 3, 3, 4, 5)),
    (Conv2d, nn.Conv2d, (3, 4), {"kernel_size": 3, "stride": 2, "pad_mode": "same", "has_bias": True}, (2, 3, 6, 7)),
    (Conv2d, nn.Conv2d, (3, 4), {"kernel_size": (1, 5), "pad_mode": "pad", "padding": (0, 0, 2, 2)}, (2, 3, 6, 7)),
    (Conv2dTranspose, nn.Conv2dTranspose, (3, 4), {"kernel_size": 2, "stride": 2, "has_bias": True}, (2, 3, 6, 7)),
    (Conv2dTranspose, nn.Conv2dTranspose, (3, 4), {"kernel_size": 2, "stride": 3, "pad_mode": "valid"}, (2, 3, 6, 7)),
]


class Weighted(nn.Cell):
    """Σ w * cell(x), so that the gradients depend on every output."""

    def __init__(self, cell, weights):
        super().__init__()
        self.cell, self.weights = cell, weights

    def construct(self, x):
        return (self.cell(x) * self.weights).sum()


def value_and_gradients(cell, x, weights):
    """Output and the gradients to the input and to each parameter."""
    found = ms.grad(Weighted(cell, Tensor(weights)), 0, list(cell.trainable_params()))(Tensor(x))
    return [array.asnumpy() for array in (cell(Tensor(x)), found[0], *found[1])]


@pytest.mark.parametrize(("own", "stock", "channels", "settings", "shape"), CELLS,
                         ids=lambda v: v.__name__ if isinstance(v, type) else None)
@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_cells_agree_with_mindspore(library, own, stock, channels, settings, shape, mode):
    rng = np.random.default_rng(2)
    before = ms.get_context("mode")
    ms.set_context(mode=mode)
    try:
        cell, reference = own(*channels, **settings), stock(*channels, **settings)
        assert cell.op is not None
        assert [(p.name, p.shape) for p in cell.get_parameters()] == [(p.name, p.shape)
                                                                      for p in reference.get_parameters()]
        for mine, theirs in zip(cell.get_parameters(), reference.get_parameters(), strict=True):
            values = Tensor(normal(rng, *mine.shape))
            mine.set_data(values)
            theirs.set_data(values)
        x = normal(rng, *shape)
        weights = normal(rng, *reference(Tensor(x)).shape)
        for found, expected in zip(value_and_gradients(cell, x, weights), value_and_gradients(reference, x, weights),
                                   strict=True):
            assert found.shape == expected.shape
            assert relative(found, expected) < 2 * BOUND  # theirs errs too
    finally:
        ms.set_context(mode=before)


def test_without_kernels_the_cells_are_mindspores(library):
    x = Tensor(normal(np.random.default_rng(3), 1, 2, 4, 5, 6))
    fast = Conv3d(2, 3, 3, has_bias=True)
    with select.stock_kernels():
        slow = Conv3d(2, 3, 3, has_bias=True)
    assert (fast.op is None, slow.op is None) == (False, True)
    ms.load_param_into_net(slow, fast.parameters_dict())
    assert relative(slow(x).asnumpy(), fast(x).asnumpy()) < 2 * BOUND


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_cells_whose_inputs_have_equal_shapes_are_kept_apart(library, mode):
    """MindSpore keeps compiled operators by their attributes and the shapes of their inputs."""
    before = ms.get_context("mode")
    ms.set_context(mode=mode)
    try:
        x = Tensor(normal(np.random.default_rng(4), 1, 2, 7, 7, 7))
        cells = [Conv3d(2, 3, 3, stride, pad_mode="pad", padding=padding, has_bias=True)
                 for stride, padding in ((1, 1), (2, 1), (1, 0))]
        assert [cell(x).shape[2:] for cell in cells] == [(7, 7, 7), (4, 4, 4), (5, 5, 5)]
        # Nothing but the weight's size tells these two gradients apart.
        for k in (2, 3):
            cell = Conv3dTranspose(2, 3, k, 2, pad_mode="pad", padding=k - 2, output_padding=k - 2)
            found = value_and_gradients(cell, x.asnumpy(), np.ones((1, 3, 14, 14, 14), np.float32))
            assert found[2].shape == (2, 3, k, k, k)
    finally:
        ms.set_context(mode=before)


@pytest.mark.parametrize(("own", "settings"), [
    (Conv3d, {"group": 2}), (Conv3d, {"dilation": 2, "pad_mode": "pad", "padding": 2}), (Conv3d, {"dtype": ms.float16}),
    (Conv2dTranspose, {"stride": 2, "pad_mode": "pad", "output_padding": 1})])
def test_what_the_kernels_do_not_have_stays_with_mindspore(library, own, settings):
    assert own(4, 4, 3, **settings).op is None


def test_nan_and_infinity_reach_the_output(library):
    cell = Conv3d(16, 16, 3, pad_mode="pad", padding=1)
    x = np.ones((1, 16, 6, 6, 6), np.float32)
    x[0, 3, 2, 2, 2], x[0, 3, 5, 5, 5] = np.nan, np.inf
    y = cell(Tensor(x)).asnumpy()
    assert np.isnan(y[:, :, 1:4, 1:4, 1:4]).all()
    assert np.isinf(y[:, :, 5, 5, 5]).all()
    assert np.isfinite(y[:, :, 0, 0, :]).all()


def test_sizes_that_do_not_fit_are_an_error(library):
    config = np.array([3, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0], np.int64)
    x, weight = np.zeros((1, 2, 4, 4, 4), np.float32), np.zeros((2, 2, 3, 3, 3), np.float32)
    with pytest.raises(RuntimeError, match="ConvForward: .*don't fit"):
        library.call("ConvForward", [config, x, weight], [np.zeros((1, 2, 3, 3, 3), np.float32)])


def test_memory_stays_flat_over_many_sizes(library):
    """More forms than the cache holds, then as many again: the second round adds nothing."""
    def round_trip():
        for depth, width in itertools.product(range(1, 21), repeat=2):
            x, weight = np.ones((1, 2, depth, width, 3), np.float32), np.ones((2, 2, 1, 1, 1), np.float32)
            y = np.empty_like(x)
            library.call("ConvForward", [np.array([3, 0, 0, 1, 1, 1, *[0] * 6], np.int64), x, weight], [y])
            assert (y == 2).all()
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096

    first = round_trip()
    assert round_trip() - first < 4 << 20
