"""Units, pooling, stretching and gates on pictures: kernels against float64, and against MindSpore's operators."""

import itertools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.ops import PictureHead, PictureLayout, PictureUnit, PoolFork, Stretch, fork, select
from src.ops.picture_size import Gate
from src.ops.volume import Copies, Fork
from tests.ops.reference import relative_error
from tests.ops.test_conv import convolve

BOUND = 1e-5


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=request.param)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture
def served(kernels_in_use):
    assert kernels_in_use.has_onednn
    return kernels_in_use


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


class Weighted(nn.Cell):
    """Σ w * cell(pictures), the pictures brought to the blocked layout first."""

    def __init__(self, cell, weights, joined=1, residual=False, blocked=True):
        super().__init__()
        self.cell, self.weights, self.joined, self.residual = cell, Tensor(weights), joined, residual
        self.to_blocked = PictureLayout(True) if blocked else nn.Identity()
        self.to_plain = PictureLayout(False)

    def output(self, *pictures):
        inputs = ()
        for k in range(self.joined):
            inputs = inputs + (self.to_blocked(pictures[k]),)
        if self.residual:
            return self.to_plain(self.cell(inputs, self.to_blocked(pictures[self.joined])))
        return self.to_plain(self.cell(inputs))

    def construct(self, *pictures):
        return (self.output(*pictures) * self.weights).sum()


def gradients(cell, arrays):
    """Return the gradients at the inputs and at the parameters."""
    parameters = list(cell.trainable_params())
    found = ops.GradOperation(get_all=True, get_by_list=True)(cell, ms.ParameterTuple(parameters))(
        *(Tensor(array) for array in arrays))
    return [value.asnumpy() for part in found for value in part]


FORMS = [
    # channels of the inputs, out, kernel, stride, options
    ((16,), 32, 3, 1, {}),
    ((32, 16), 16, 3, 1, {}),
    ((16, 16, 16, 16, 16), 16, 3, 1, {}),
    ((16,), 16, 3, 1, {"residual": True}),
    ((16,), 32, 3, 2, {}),
    ((16,), 32, 1, 2, {"relu": False}),
    ((32,), 16, 2, 2, {"transposed": True, "norm": False, "has_bias": True, "relu": False}),
    ((16,), 16, 2, 2, {"norm": False, "relu": False}),
    ((32,), 16, 1, 1, {"norm": False, "has_bias": True, "residual": True}),
    ((16,), 16, 3, 1, {"norm": False, "has_bias": True}),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_units_agree_with_mindspores_cells(form, served, mode):
    channels, out, kernel, stride, options = form
    unit = PictureUnit(channels, out, kernel, stride, **options)
    with select.stock_kernels():
        stock = PictureUnit(channels, out, kernel, stride, **options)
    assert unit.fused is not None and stock.fused is None
    for number, (mine, theirs) in enumerate(zip(unit.get_parameters(), stock.get_parameters(), strict=True)):
        assert (mine.name, mine.shape) == (theirs.name, theirs.shape)
        values = normal(*mine.shape, seed=number)
        values = 1 + np.abs(values) if "variance" in mine.name else values
        mine.set_data(Tensor(values))
        theirs.set_data(Tensor(values.copy()))
    arrays = [normal(2, c, 6, 10, seed=20 + k) for k, c in enumerate(channels)]
    shape = stock(tuple(map(Tensor, arrays)), Tensor(0.0) if "residual" in options else None).shape
    for parameter, theirs in zip(unit.get_parameters(), stock.get_parameters(), strict=True):
        theirs.set_data(Tensor(parameter.asnumpy().copy()))  # the pass before moved the statistics
    if "residual" in options:
        arrays.append(normal(*shape, seed=40))
    found = []
    for cell, blocked in ((unit, True), (stock, False)):
        whole = Weighted(cell, normal(*shape, seed=50), len(channels), "residual" in options, blocked)
        whole.set_train(True)
        found.append([*gradients(whole, arrays), *(p.asnumpy() for p in cell.get_parameters() if "moving" in p.name)])
        whole.set_train(False)
        found[-1].append(whole.output(*map(Tensor, arrays)).asnumpy())
    for mine, theirs in zip(*found, strict=True):
        assert mine.shape == theirs.shape
        assert relative_error(mine, theirs) < BOUND


@pytest.mark.parametrize(("kernel", "stride", "channels"), [(3, 1, 3), (7, 2, 3), (3, 1, 1)])
def test_unit_on_an_image_against_float64(kernel, stride, channels, served, mode):
    unit = PictureUnit(channels, 16, kernel, stride, image=True)
    x = normal(3, channels, 12, 8)
    unit.set_train(True)
    y = PictureLayout(False)(unit(Tensor(x))).asnumpy()
    pad = (kernel // 2,) * 2
    raw = convolve(x, unit.conv.weight.asnumpy(), (stride,) * 2, pad, pad)
    mean, variance = (getattr(raw, name)((0, 2, 3), keepdims=True) for name in ("mean", "var"))
    assert relative_error(y, np.maximum((raw - mean) / np.sqrt(variance + 1e-5), 0)) < BOUND
    np.testing.assert_allclose(unit.norm.moving_mean.asnumpy(), 0.1 * mean.ravel(), rtol=1e-4, atol=1e-6)
    size = raw.size // 16
    np.testing.assert_allclose(unit.norm.moving_variance.asnumpy(), 0.9 + 0.1 * variance.ravel() * size / (size - 1),
                               rtol=1e-4)


def test_channels_that_fill_no_block_take_mindspores_way(served):
    assert PictureUnit(8, 16).fused is None and PictureUnit(16, 8).fused is None
    assert PictureUnit((16, 8), 16).fused is None and PictureHead(8, 1).fused is None
    unit = PictureUnit(16, 8)
    x = Tensor(normal(1, 16, 4, 4))
    np.testing.assert_array_equal(unit(PictureLayout(True)(x)).asnumpy(), unit(x).asnumpy())


def test_wrong_shapes_are_refused(served):
    unit = PictureUnit((16, 32), 16, residual=True)
    a, b, c = (PictureLayout(True)(Tensor(normal(1, n, 4, 4))) for n in (16, 32, 16))
    assert unit((a, b), c).shape == (1, 1, 1, 4, 4, 16)
    with pytest.raises(Exception, match=r"found an input of shape \[1, 1, 1, 4, 4, 16\], expected \[1, 2"):
        unit((a, a), c)
    with pytest.raises(Exception, match="found a residual of shape"):
        unit((a, b), b)


def test_head_in_both_layouts(served, mode):
    head = PictureHead(32, 2)
    head.conv.bias.set_data(Tensor(np.array([0.5, -1.0], np.float32)))
    x, weights = normal(2, 32, 5, 6), normal(2, 2, 5, 6, seed=1)
    expected = np.einsum("nchw,kc->nkhw", x, head.conv.weight.asnumpy()[..., 0, 0]) + [[[0.5]], [[-1.0]]]

    class Head(nn.Cell):
        def __init__(self):
            super().__init__()
            self.head = head

        def construct(self, x):
            return self.head(x[0])

    found = []
    for blocked in (True, False):
        cell = Weighted(Head(), weights, blocked=blocked)
        cell.set_train(True)
        assert relative_error(cell.output(Tensor(x)).asnumpy(), expected) < BOUND
        found.append(gradients(cell, [x]))
    for mine, theirs in zip(*found, strict=True):
        assert relative_error(mine, theirs) < BOUND


class Both(nn.Cell):
    """The sum of a fork's two results, weighted."""

    def __init__(self, pool, weights, blocked):
        super().__init__()
        self.pool, self.weights = pool, (Tensor(weights[0]), Tensor(weights[1]))
        self.to_blocked = PictureLayout(True) if blocked else nn.Identity()
        self.to_plain = PictureLayout(False)

    def construct(self, x):
        skip, pooled = self.pool(self.to_blocked(x))
        return (self.to_plain(skip) * self.weights[0]).sum() + (self.to_plain(pooled) * self.weights[1]).sum()


def pooled_by_hand(x, dskip, dpooled, size):
    """Return max-pooling of stride 2 and the gradient at x; the first of equal values, row by row, has it."""
    pad = (size - 1) // 2
    y, dx = np.empty_like(dpooled), dskip.copy()
    for n, c, row, column in np.ndindex(*y.shape):
        places = [(h, w) for h, w in itertools.product(range(2 * row - pad, 2 * row - pad + size),
                                                       range(2 * column - pad, 2 * column - pad + size))
                  if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]]
        best = max(places, key=lambda place: x[(n, c, *place)])
        y[n, c, row, column] = x[(n, c, *best)]
        dx[(n, c, *best)] += dpooled[n, c, row, column]
    return y, dx


@pytest.mark.parametrize("size", [2, 3])
def test_pooling_by_hand(size, served, mode):
    # Few different values: many windows have their largest one several times.
    x = np.random.default_rng(3).integers(-2, 3, (2, 16, 8, 6)).astype(np.float32)
    weights = normal(2, 16, 8, 6, seed=1), normal(2, 16, 4, 3, seed=2)
    y, dx = pooled_by_hand(x, *weights, size)
    pool = PoolFork(size)
    np.testing.assert_array_equal(PictureLayout(False)(pool(PictureLayout(True)(Tensor(x)))[1]).asnumpy(), y)
    np.testing.assert_allclose(ops.grad(Both(pool, weights, True))(Tensor(x)).asnumpy(), dx, atol=1e-6)
    with select.stock_kernels():
        stock = PoolFork(size)
    np.testing.assert_array_equal(stock(Tensor(x))[1].asnumpy(), y)


def test_pooling_keeps_what_is_no_number(served):
    x = np.zeros((1, 16, 4, 4), np.float32)
    x[0, 0, 0, 0], x[0, 1, 0, 1], x[0, 2, 1, 1], x[0, 3] = np.nan, np.nan, np.inf, -np.inf
    y = PictureLayout(False)(PoolFork()(PictureLayout(True)(Tensor(x)))[1]).asnumpy()[0]
    assert np.isnan(y[0, 0, 0]) and np.isnan(y[1, 0, 0]) and y[2, 0, 0] == np.inf and (y[3] == -np.inf).all()
    assert np.isfinite(y[:2]).sum() == 6


def stretched(x):
    """Bilinear by factor 2 with half-pixel centres, as matrices in float64."""
    def matrix(n):
        places = np.clip((np.arange(2 * n) + 0.5) / 2 - 0.5, 0, n - 1)
        return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(n)))

    rows, columns = matrix(x.shape[2]), matrix(x.shape[3])
    return np.einsum("yh,nchw,xw->ncyx", rows, x.astype(np.float64), columns), rows, columns


@pytest.mark.parametrize("size", [(4, 6), (1, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("blocked", [True, False], ids=["kernel", "stock"])
def test_stretching_against_float64(blocked, size, served, mode):
    x, weights = normal(2, 16, *size), normal(2, 16, 2 * size[0], 2 * size[1], seed=1)
    expected, rows, columns = stretched(x)
    stretch = Stretch()

    class First(nn.Cell):
        def __init__(self):
            super().__init__()
            self.stretch = stretch

        def construct(self, x):
            return self.stretch(x[0])

    cell = Weighted(First(), weights, blocked=blocked)
    assert relative_error(cell.output(Tensor(x)).asnumpy(), expected) < BOUND
    dx = np.einsum("yh,ncyx,xw->nchw", rows, weights, columns)
    assert relative_error(gradients(cell, [x])[0], dx) < BOUND


@pytest.mark.parametrize("blocked", [True, False], ids=["kernel", "stock"])
def test_gate(blocked, served, mode):
    x, gate, weights = normal(2, 32, 3, 5), normal(2, 1, 3, 5, seed=1), normal(2, 32, 3, 5, seed=2)

    class Gated(nn.Cell):
        def __init__(self):
            super().__init__()
            self.gate, self.weights = Gate(), Tensor(weights)
            self.to_blocked = PictureLayout(True) if blocked else nn.Identity()
            self.to_plain = PictureLayout(False)

        def construct(self, x, gate):
            return (self.to_plain(self.gate(self.to_blocked(x), gate)) * self.weights).sum()

    dx, dgate = (value.asnumpy() for value in ops.grad(Gated(), (0, 1))(Tensor(x), Tensor(gate)))
    np.testing.assert_allclose(dx, weights * gate, rtol=1e-6)
    np.testing.assert_allclose(dgate, (weights * x).sum(1, keepdims=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_gradients_of_all_copies_are_added(count, served, mode):
    class Net(nn.Cell):
        def __init__(self, copies):
            super().__init__()
            self.copies = copies

        def construct(self, x):
            total = 0.0
            for k, copy in enumerate(self.copies(x)):
                total = total + (k + 1) * copy.sum()
            return total

    cell = fork(count)
    assert isinstance(cell, Copies if count == 1 else Fork)
    found = ops.grad(Net(cell))(Tensor(normal(2, 3, 4)))
    np.testing.assert_allclose(found.asnumpy(), sum(range(1, count + 1)), rtol=1e-6)
