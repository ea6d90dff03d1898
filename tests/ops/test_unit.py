"""Units as cells: the CPU kernels and MindSpore's operators compute the same from the same parameters."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.losses import build_loss
from src.networks.vnet import DownTransition, OutputTransition, UpTransition
from src.ops import ConvUnit, fork, select
from src.ops.select import UnitOptions, stock_kernels
from src.ops.volume import Layout
from tests.ops.reference import blocked, relative_error


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


class SmallVNet(nn.Cell):
    """One level of a V-Net: every form of unit, a skip connection, residuals of all kinds."""

    def __init__(self, act: str, norm: bool, dropout: float = 0.0, base: int = 16):
        super().__init__()
        self.input = ConvUnit(1, base, 5, norm=norm, residual="image", residual_act=act)
        self.fork = fork()
        self.down = DownTransition(base, 2, dropout, act, norm, seed=1)
        self.up = UpTransition(2 * base, base, 2 * base, 1, dropout, dropout, act, norm, seed=2)
        self.output = OutputTransition(2 * base, 2, 1, act, norm, first_conv=norm)

    def construct(self, x: Tensor) -> Tensor:
        x, skip = self.fork(self.input(x))
        return self.output(self.up(self.down(x), skip))


class LossAndGradients(nn.Cell):
    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = nn.WithLossCell(network, build_loss({"loss": "dice_ce"}))
        self.weights = ms.ParameterTuple(network.trainable_params())
        self.grad = ops.value_and_grad(self.network, None, self.weights)

    def construct(self, x: Tensor, label: Tensor):
        return self.grad(x, label)


def run(network: nn.Cell, x: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """Return loss, gradients and parameters after one training pass, and the logits of an evaluation after it."""
    cell = LossAndGradients(network)
    cell.set_train()
    loss, gradients = cell(Tensor(x), Tensor(label))
    values = {f"gradient of {p.name}": g.asnumpy().copy() for p, g in zip(cell.weights, gradients, strict=True)}
    values |= {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    values["loss"] = loss.asnumpy().copy()
    network.set_train(False)
    values["logits"] = network(Tensor(x)).asnumpy().copy()
    return values


def data(size=(8, 6, 10), samples=2):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(samples, 1, *size)).astype(np.float32)
    return image, (rng.random((samples, *size)) > 0.7).astype(np.float32)


def both(make, options=None):
    """Return the same network on MindSpore's operators and on the kernels."""
    ms.set_seed(3)
    with stock_kernels():
        stock = make()
    select.set_unit_options(options or UnitOptions())
    ours = make()
    # What makes a checkpoint move between back ends: names and shapes are the same.
    assert [(p.name, p.shape) for p in stock.get_parameters()] == [(p.name, p.shape) for p in ours.get_parameters()]
    ms.load_param_into_net(ours, {p.name: ms.Parameter(p.asnumpy().copy(), name=p.name)
                                  for p in stock.get_parameters()})
    return stock, ours


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
@pytest.mark.parametrize(("act", "norm", "dropout"), [("elu", True, 0.5), ("prelu", False, 0.0)])
def test_a_network_on_kernels_equals_the_stock_one(kernels_in_use, act, norm, dropout, mode):
    ms.set_context(mode=mode)
    stock, ours = both(lambda: SmallVNet(act, norm, dropout))
    expected, found = (run(network, *data()) for network in (stock, ours))
    assert set(expected) == set(found)
    for name, value in expected.items():
        if norm and name.endswith("conv.bias") and not name.endswith("output.last.conv.bias") or not np.any(value):
            # Batch norm takes such a bias out again: its gradient is rounding noise in the one, zero in the other.
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
        else:
            assert relative_error(found[name], value.astype(np.float64)) < 3e-4, name


@pytest.mark.parametrize("base", [8, 16])
def test_instance_norm_in_a_network(kernels_in_use, monkeypatch, base):
    """As on MindSpore's operators, and what becomes of a sample does not depend on the other: not in evaluation."""
    monkeypatch.setattr(select, "_options", UnitOptions(norm="instance"))
    stock, ours = both(lambda: SmallVNet("elu", True, base=base), UnitOptions(norm="instance"))
    image, label = data(size=(8, 6, 16))
    expected, found = (run(network, image, label) for network in (stock, ours))
    for name, value in expected.items():
        if "conv.bias" in name and "output.last" not in name or not np.any(value):
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
        else:
            assert relative_error(found[name], value.astype(np.float64)) < 3e-4, name
    assert not [name for name in expected if "moving" in name]
    alone = ours(Tensor(image[1:])).asnumpy()
    assert relative_error(alone, found["logits"][1:].astype(np.float64)) < 1e-5


def test_bf16_storage_stays_close_in_a_network(kernels_in_use):
    stock, ours = both(lambda: SmallVNet("elu", True, 0.5), UnitOptions("bfloat16"))
    expected, found = (run(network, *data()) for network in (stock, ours))
    assert found["loss"] == pytest.approx(expected["loss"], rel=5e-3)
    for name, value in expected.items():
        if name.startswith("gradient") and name.endswith("weight"):
            assert relative_error(found[name], value.astype(np.float64)) < 0.1, name
    assert relative_error(found["logits"], expected["logits"].astype(np.float64)) < 0.05


def test_channels_that_fill_no_block(kernels_in_use):
    """8 channels: the outer units have no kernel of ours and go through oneDNN, the inner ones have."""
    stock, ours = both(lambda: SmallVNet("elu", True, base=8))
    assert ours.input.fused is None
    assert ours.down.block.last.fused is not None
    expected, found = (run(network, *data()) for network in (stock, ours))
    for name in ("loss", "logits", "gradient of input.conv.weight", "gradient of up.up.conv.weight"):
        assert relative_error(found[name], expected[name].astype(np.float64)) < 3e-4, name


def test_networks_made_under_stock_kernels_have_none(kernels_in_use):
    with stock_kernels():
        unit = ConvUnit(16, 16, 5)
    assert unit.fused is None
    assert ConvUnit(16, 16, 5).fused is not None


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_layouts_by_hand_and_back(kernels_in_use, storage):
    x = np.random.default_rng(1).integers(-8, 8, (2, 32, 2, 3, 4)).astype(np.float32)  # exact in bf16
    path = str(kernels_in_use.path)
    there, back = Layout(path, storage), Layout(path)
    inside = there(Tensor(x))
    assert inside.shape == (2, 2, 2, 3, 4, 16)
    np.testing.assert_array_equal(inside.astype(ms.float32).asnumpy(), blocked(x))
    np.testing.assert_array_equal(back(inside).asnumpy(), x)


def test_odd_sizes_cannot_be_halved(kernels_in_use):
    with pytest.raises((ValueError, RuntimeError), match="expected even numbers"):
        ConvUnit(16, 32, 2, 2)(Tensor(np.zeros((1, 16, 4, 3, 4), np.float32)))


class TwoGradients(nn.Cell):
    """The gradients at x of one unit for two gradients of its result."""

    def __init__(self, unit: nn.Cell, shared: bool):
        super().__init__()
        self.unit, self.shared, self.grad = unit, shared, ops.GradOperation(sens_param=True)

    def construct(self, x: Tensor, first: Tensor, second: Tensor):
        if self.shared:
            _, vjp = ms.vjp(self.unit, x)
            return vjp(first), vjp(second)
        return self.grad(self.unit)(x, first), self.grad(self.unit)(x, second)


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
@pytest.mark.parametrize("how", ["two grads in a cell", "a vjp called twice in Python", "a vjp called twice in a cell"])
def test_two_backward_passes(kernels_in_use, how, mode):
    """UnitBackward writes over what the forward pass kept: the second one needs a forward pass of its own."""
    ms.set_context(mode=mode)
    rng = np.random.default_rng(5)
    network = nn.SequentialCell(ConvUnit(16, 16, 5, act="elu"), Layout(str(kernels_in_use.path))).set_train()
    x, first, second = (Tensor(rng.normal(size=(1, 16, 6, 5, 7)).astype(np.float32)) for _ in range(3))
    expected = [ops.GradOperation(sens_param=True)(network)(x, dout).asnumpy().copy() for dout in (first, second)]
    if how == "a vjp called twice in Python":
        _, vjp = ms.vjp(network, x)
        found = [vjp(dout) for dout in (first, second)]
    elif how == "a vjp called twice in a cell" and mode == ms.GRAPH_MODE:
        with pytest.raises(RuntimeError, match="a second backward pass of one forward pass"):
            TwoGradients(network, True).set_train()(x, first, second)[1][0].asnumpy()
        return
    else:
        found = TwoGradients(network, "vjp" in how).set_train()(x, first, second)
    for mine, theirs in zip(found, expected, strict=True):
        value = (mine[0] if isinstance(mine, tuple) else mine).asnumpy()
        assert relative_error(value, theirs.astype(np.float64)) < 1e-6
