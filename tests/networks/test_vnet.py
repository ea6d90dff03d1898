"""V-Net: shapes, parameter counts, and a gradient through every parameter."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.networks import ForegroundProbability, VNet, build_network
from src.networks.vnet import OutputTransition
from src.ops import ChannelDropout, ConvUnit, select
from src.ops.activation import ChannelPReLU
from src.ops.cpu.unit_op import ALGORITHMS, UnitOp
from src.ops.norm import InstanceNorm3d
from src.overrides import load_recipe


def count(network: nn.Cell) -> int:
    return sum(parameter.size for parameter in network.trainable_params())


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**3 + outputs


def expected_count(base: int, out_kernel: int) -> int:
    """Count the default variant by hand, layer by layer; a batch norm has 2 parameters a channel."""
    total = conv(1, base, 5) + 2 * base
    for i, units in enumerate((1, 2, 3, 2)):
        c = base * 2 ** (i + 1)
        total += conv(c // 2, c, 2) + 2 * c + units * (conv(c, c, 5) + 2 * c)
    for inputs, outputs, skip, units in ((16, 16, 8, 2), (16, 8, 4, 2), (8, 4, 2, 1), (4, 2, 1, 1)):
        up = base * (outputs - skip)
        c = base * outputs
        total += conv(base * inputs, up, 2) + 2 * up + units * (conv(c, c, 5) + 2 * c)
    return total + conv(2 * base, 2, 5) + 2 * 2 + conv(2, 2, out_kernel)


@pytest.mark.parametrize(("base", "out_kernel"), [(16, 1), (16, 3), (4, 1)])
def test_parameter_count(base, out_kernel):
    recipe = load_recipe(overrides=[f"base_channels={base}", f"out_kernel={out_kernel}"])
    network = build_network(recipe)
    assert count(network) == expected_count(base, out_kernel)
    if (base, out_kernel) == (16, 1):
        assert count(network) == 45_600_316  # the published figure is about 45.6 M
        assert count(build_network(load_recipe(overrides=["variant=paper"]))) == 65_176_274


@pytest.mark.parametrize(("variant", "name", "elu", "prelu"), [
    ("default", "auto", 32, 0), ("default", "prelu", 0, 32), ("paper", "auto", 0, 37), ("paper", "elu", 37, 0)])
def test_activation(variant, name, elu, prelu):
    cells = [type(cell) for _, cell in VNet(variant, activation=name, base_channels=2).cells_and_names()]
    assert (cells.count(nn.ELU), cells.count(ChannelPReLU)) == (elu, prelu)


def test_norm():
    recipe = load_recipe(overrides=["norm=instance", "base_channels=2"])
    network = build_network(recipe)
    cells = [type(cell) for _, cell in network.cells_and_names()]
    assert cells.count(InstanceNorm3d) == 24 and nn.BatchNorm3d not in cells
    assert count(network) == expected_count(2, 1)  # scale and shift, as batch norm


def test_dropout_probability_reaches_every_dropout_layer():
    def layers(**kwargs):
        return [c for _, c in VNet(base_channels=2, **kwargs).cells_and_names() if isinstance(c, ChannelDropout)]

    # Down transitions 3 and 4, up transitions 1 and 2, and all four skips.
    assert [layer.probability for layer in layers(dropout=0.3)] == [0.3] * 8
    assert len({layer.seed for layer in layers()}) == 8
    assert layers(dropout=0.0) == []
    assert layers(variant="paper") == []


@pytest.mark.parametrize(("overrides", "algorithm", "output"), [
    ([], "auto", ms.float32), (["conv_algorithm=direct"], "direct", ms.float32),
    (["conv_algorithm=winograd", "amp_level=bf16"], "winograd", ms.bfloat16)])
def test_precision_and_algorithm_reach_every_unit(kernels_in_use, overrides, algorithm, output):
    network = build_network(load_recipe(overrides=overrides))
    operators = [cell for _, cell in network.cells_and_names() if isinstance(cell, UnitOp)]
    # 8 + 6 convolutions in blocks, 4 down, 4 up, the first and the first of the output; the last 2 -> 2 is oneDNN's.
    assert len(operators) == 14 + 4 + 4 + 2
    assert {ALGORITHMS[operator.config.asnumpy()[-1]] for operator in operators} == {algorithm}
    x = Tensor(np.zeros((1, 1, 16, 16, 16), np.float32))
    network.set_train(False)
    assert network.input(x).dtype == output
    assert network(x).dtype == ms.float32


class SumOfSquares(nn.Cell):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def construct(self, x):
        logits = self.network(x)
        if not isinstance(logits, tuple):
            return ops.reduce_sum(ops.square(logits))
        total = 0.0
        for output in logits:
            total = total + ops.reduce_sum(ops.square(output))
        return total


def gradients_of(network, x):
    """Return the gradient of the outputs' sum of squares at each weight, by name."""
    weights = network.trainable_params()
    found = ops.GradOperation(get_by_list=True)(SumOfSquares(network), ms.ParameterTuple(weights))(x)
    return {weight.name: gradient.asnumpy() for weight, gradient in zip(weights, found, strict=True)}


@pytest.mark.parametrize("variant", ["default", "paper"])
def test_shape_and_a_gradient_through_every_parameter(variant):
    ms.set_seed(1)
    network = VNet(variant, base_channels=2, dropout=0.0)
    x = Tensor(np.random.default_rng(0).normal(size=(2, 1, 16, 32, 16)).astype(np.float32))
    network.set_train(False)
    assert network(x).shape == (2, 2, 16, 32, 16)
    network.set_train(True)
    for name, gradient in gradients_of(network, x).items():
        value = np.abs(gradient).max()
        assert np.isfinite(value), name
        # A bias before batch norm has no gradient by design: the mean is subtracted again.
        if variant != "default" or not name.endswith(".bias") or name.startswith("output.last"):
            assert value > 0, name


def test_classes_set_the_number_of_logits():
    network = build_network(load_recipe(overrides=["classes=5", "base_channels=1"]))
    network.set_train(False)
    assert network(Tensor(np.zeros((1, 1, 16, 16, 16), np.float32))).shape == (1, 5, 16, 16, 16)
    wide = build_network(load_recipe("vnet_hippocampus"))
    # The output's 5³ convolution from 32 channels with its norm, and the last one.
    assert count(wide) == 45_600_316 + conv(32, 3, 5) - conv(32, 2, 5) + 2 + conv(3, 3, 1) - conv(2, 2, 1)


def test_deep_supervision_adds_heads_and_changes_nothing_else():
    networks = []
    for value in ("false", "true"):
        ms.set_seed(3)
        networks.append(build_network(load_recipe(overrides=["base_channels=2", "classes=3", "dropout=0",
                                                             f"deep_supervision={value}"])))
    plain, deep = ({p.name: p.asnumpy() for p in network.get_parameters()} for network in networks)
    heads = {f"heads.{i}.conv.{part}": shape for i, width in enumerate((32, 16, 8))
             for part, shape in (("weight", (3, width, 1, 1, 1)), ("bias", (3,)))}
    assert {name: value.shape for name, value in deep.items() if name not in plain} == heads
    for name, value in plain.items():
        np.testing.assert_array_equal(deep[name], value)
    x = Tensor(np.random.default_rng(0).normal(size=(2, 1, 16, 32, 16)).astype(np.float32))
    network = networks[1].set_train(True)
    assert [tuple(logits.shape) for logits in network(x)] == [(2, 3, 16, 32, 16), (2, 3, 8, 16, 8), (2, 3, 4, 8, 4),
                                                             (2, 3, 2, 4, 2)]
    for name, gradient in gradients_of(network, x).items():
        if name.startswith("heads") or not name.endswith(".bias"):
            assert np.abs(gradient).max() > 0, name
    network.set_train(False)
    assert network(x).shape == (2, 3, 16, 32, 16)


class LastStages(nn.Cell):
    """The output transition and a head, from as many channels as in the paper, which the kernels need."""

    def __init__(self, classes):
        super().__init__()
        self.output = OutputTransition(32, classes, 1, "elu", norm=True, first_conv=True)
        self.head = ConvUnit(32, classes, 1, norm=False)
        # Of a normalised volume the sum of squares alone has hardly a gradient.
        self.shift = Tensor(np.random.default_rng(1).normal(size=(2, classes, 16, 8, 12)).astype(np.float32))

    def construct(self, x):
        return self.output(x) + self.shift, self.head(x)


@pytest.mark.parametrize("classes", [2, 3, 5, 9])
def test_logits_of_any_number_of_classes_on_the_cpu_kernels(library, monkeypatch, classes):
    """Nine are more than the kernels' form of the output takes."""
    x = Tensor(np.random.default_rng(0).normal(size=(2, 32, 16, 8, 12)).astype(np.float32))
    results = []
    for served in (None, library):
        monkeypatch.setattr(select, "_library", served)
        monkeypatch.setattr(select, "_decided", True)
        ms.set_seed(3)
        network = LastStages(classes).set_train(True)
        results.append(([logits.asnumpy() for logits in network(x)], gradients_of(network, x)))
    (stock, expected), (served, found) = results
    for a, b in zip(served, stock, strict=True):
        assert np.linalg.norm(a - b) < 5e-5 * np.linalg.norm(b)
    for name, gradient in expected.items():
        if not name.endswith("output.first.conv.bias"):  # before batch norm: none but rounding
            assert np.linalg.norm(found[name] - gradient) < 1e-4 * np.linalg.norm(gradient), name


def test_probability_is_the_softmax_of_class_1():
    network = VNet(base_channels=2, dropout=0.0)
    network.set_train(False)
    x = Tensor(np.random.default_rng(0).normal(size=(1, 1, 16, 16, 16)).astype(np.float32))
    logits = network(x).asnumpy().astype(np.float64)
    expected = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    probability = ForegroundProbability(network)(x).asnumpy()
    assert probability.shape == (1, 16, 16, 16)
    np.testing.assert_allclose(probability, expected, atol=1e-6)


def test_same_seed_same_weights():
    values = []
    for _ in range(2):
        ms.set_seed(5)
        values.append(VNet(base_channels=2).input.conv.weight.asnumpy())
    assert np.array_equal(*values)


def test_sizes_that_do_not_halve_four_times_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindSpore writes rank_0/ where a graph fails to compile
    with pytest.raises(ValueError, match="multiple of 16"):
        VNet(base_channels=2)(Tensor(np.zeros((1, 1, 16, 24, 16), np.float32)))


def test_unknown_variant():
    with pytest.raises(ValueError, match="default, paper"):
        VNet("small")
