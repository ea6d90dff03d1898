"""V-Net: shapes, parameter counts, and a gradient through every parameter."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.config import load_recipe
from src.networks import ForegroundProbability, VNet, build_network
from src.ops import ChannelDropout
from src.ops.activation import ChannelPReLU
from src.ops.cpu.unit_op import ALGORITHMS, UnitOp


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
        return ops.reduce_sum(ops.square(self.network(x)))


@pytest.mark.parametrize("variant", ["default", "paper"])
def test_shape_and_a_gradient_through_every_parameter(variant):
    ms.set_seed(1)
    network = VNet(variant, base_channels=2, dropout=0.0)
    x = Tensor(np.random.default_rng(0).normal(size=(2, 1, 16, 32, 16)).astype(np.float32))
    network.set_train(False)
    assert network(x).shape == (2, 2, 16, 32, 16)
    network.set_train(True)
    weights = network.trainable_params()
    gradients = ops.GradOperation(get_by_list=True)(SumOfSquares(network), ms.ParameterTuple(weights))(x)
    normed_bias = {"default": ".bias"}.get(variant)
    for weight, gradient in zip(weights, gradients, strict=True):
        value = np.abs(gradient.asnumpy()).max()
        assert np.isfinite(value), weight.name
        # A bias before batch norm has no gradient by design: the mean is subtracted again.
        if not (normed_bias and weight.name.endswith(normed_bias)) or weight.name.startswith("output.last"):
            assert value > 0, weight.name


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
