"""The two-dimensional networks: parameter counts by hand, shapes, gradients everywhere, stock operators and export."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.networks import AttentionUNet, ResNet34UNet, UNet2d, UNetPP, build_network
from src.ops import ChannelDropout, select
from src.ops.picture import PictureHead, PictureUnit
from src.overrides import load_recipe
from tests.ops.reference import relative_error

NETWORKS = {
    "unet": lambda: UNet2d(3, 2, 16),
    "unet-bilinear-narrow": lambda: UNet2d(1, 1, 4, "bilinear"),
    "attention": lambda: AttentionUNet(3, 1, 16),
    "resnet34": lambda: ResNet34UNet(3, 1, 16),
    "unetpp": lambda: UNetPP(3, 1, 16, "bilinear"),
}


def conv(inputs: int, outputs: int, kernel: int = 3, bias: bool = False) -> int:
    return inputs * outputs * kernel**2 + outputs * bias


def unit(inputs: int, outputs: int, kernel: int = 3) -> int:
    """A convolution without bias, and batch norm's two parameters a channel."""
    return conv(inputs, outputs, kernel) + 2 * outputs


def double(inputs: int, outputs: int, middle: int | None = None) -> int:
    middle = outputs if middle is None else middle
    return unit(inputs, middle) + unit(middle, outputs)


def count(network: nn.Cell) -> int:
    return sum(parameter.size for parameter in network.trainable_params())


def unet(channels: int, outputs: int, base: int) -> int:
    widths = [base * 2**i for i in range(5)]
    total = double(channels, base) + sum(double(a, b) for a, b in zip(widths, widths[1:], strict=False))
    for low, high in zip(widths, widths[1:], strict=False):
        total += conv(high, low, 2, bias=True) + double(2 * low, low)
    return total + conv(base, outputs, 1, bias=True)


def resnet34(channels: int) -> int:
    total = unit(channels, 64, 7) + 3 * double(64, 64)
    for width, blocks in ((128, 4), (256, 6), (512, 3)):
        total += double(width // 2, width) + unit(width // 2, width, 1) + (blocks - 1) * double(width, width)
    return total


@pytest.mark.parametrize(("channels", "outputs", "base"), [(3, 1, 32), (1, 2, 8)])
def test_parameters_of_unet(channels, outputs, base):
    assert count(UNet2d(channels, outputs, base)) == unet(channels, outputs, base)
    if base == 32:
        assert unet(3, 1, 32) == 7_763_041


def test_parameters_of_unet_with_bilinear_upsampling():
    # 1 -> 64 -> 128 -> 256 -> 512 -> 512, and up: 512 + 512 -> 512 -> 256, ..., 64 + 64 -> 64 -> 64.
    expected = double(1, 64) + double(64, 128) + double(128, 256) + double(256, 512) + double(512, 512)
    expected += double(1024, 256, 512) + double(512, 128, 256) + double(256, 64, 128) + double(128, 64, 64)
    assert count(UNet2d(1, 2, 64, "bilinear")) == expected + conv(64, 2, 1, bias=True)


def test_parameters_of_attention_unet():
    gates = 0
    for skip in (4, 8, 16, 32):
        inner = skip // 2
        gates += conv(skip, inner, 2) + conv(2 * skip, inner, 1, bias=True) + conv(inner, 1, 1, bias=True)
    assert count(AttentionUNet(3, 1, 4)) == unet(3, 1, 4) + gates


def test_parameters_of_resnet34_unet():
    assert resnet34(3) == 21_284_672  # torchvision's 21,797,672 without the classifier's 512 * 1000 + 1000
    up, before = 0, 512
    for width, skip in ((64, 256), (32, 128), (16, 64), (8, 64), (4, 0)):
        up += conv(before, width, 2, bias=True) + double(width + skip, width)
        before = width
    assert count(ResNet34UNet(3, 1, 8)) == resnet34(3) + up + conv(4, 1, 1, bias=True)


@pytest.mark.parametrize("deep", [True, False])
def test_parameters_of_unetpp(deep):
    base = 4
    widths = [base * 2**i for i in range(5)]
    total = double(3, base) + sum(double(a, b) for a, b in zip(widths, widths[1:], strict=False))
    for j in range(1, 5):
        for low, high in list(zip(widths, widths[1:], strict=False))[:5 - j]:
            total += conv(high, low, 2, bias=True) + double((j + 1) * low, low)
    network = UNetPP(3, 1, base, deep_supervision=deep)
    assert count(network) == total + (4 if deep else 1) * conv(base, 1, 1, bias=True)


class MeanSquare(nn.Cell):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def construct(self, x):
        logits = self.network(x)
        if not isinstance(logits, tuple):
            return (logits * logits).mean()
        total = 0.0
        for one in logits:
            total = total + (one * one).mean()
        return total


def gradients_of(network: nn.Cell, x: Tensor) -> dict[str, np.ndarray]:
    weights = network.trainable_params()
    found = ops.GradOperation(get_by_list=True)(MeanSquare(network), ms.ParameterTuple(weights))(x)
    return {weight.name: gradient.asnumpy() for weight, gradient in zip(weights, found, strict=True)}


def picture(network: nn.Cell, size: tuple[int, int] = (32, 64)) -> Tensor:
    return Tensor(np.random.default_rng(0).normal(size=(2, network.channels, *size)).astype(np.float32))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("served", [True, False], ids=["kernels", "stock"])
def test_shapes_and_a_gradient_through_every_parameter(name, served, request):
    if served:
        request.getfixturevalue("kernels_in_use")
    ms.set_seed(1)
    network = NETWORKS[name]()
    fused = [cell for _, cell in network.cells_and_names() if isinstance(cell, PictureUnit) and cell.fused is not None]
    assert bool(fused) == served
    x = picture(network)
    network.set_train(True)
    outputs = 2 if name == "unet" else 1
    logits = network(x)
    if name == "unetpp":
        assert [tuple(one.shape) for one in logits] == [(2, 1, 32, 64)] * 4
    else:
        assert logits.shape == (2, outputs, 32, 64)
    for parameter, gradient in gradients_of(network, x).items():
        largest = np.abs(gradient).max()
        assert np.isfinite(largest) and largest > 0, parameter
    network.set_train(False)
    assert network(x).shape == (2, outputs, 32, 64)


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_and_stock_operators_agree(name, kernels_in_use):
    ms.set_seed(2)
    served = NETWORKS[name]()
    with select.stock_kernels():
        stock = NETWORKS[name]()
    for ours, theirs in zip(served.get_parameters(), stock.get_parameters(), strict=True):
        assert (ours.name, ours.shape) == (theirs.name, theirs.shape)
        theirs.set_data(Tensor(ours.asnumpy().copy()))
    x = picture(served)
    for training in (True, False):
        found = []
        for network in (served, stock):
            network.set_train(training)
            logits = network(x)
            found.append(logits[-1] if isinstance(logits, tuple) else logits)
        assert relative_error(found[0].asnumpy(), found[1].asnumpy()) < 1e-4
    for ours, theirs in zip(served.get_parameters(), stock.get_parameters(), strict=True):
        if "moving" in ours.name:
            np.testing.assert_allclose(ours.asnumpy(), theirs.asnumpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("make", "multiple"), [
    (lambda: UNet2d(3, 1, 2), 16), (lambda: AttentionUNet(3, 1, 2), 16), (lambda: UNetPP(3, 1, 2), 16),
    (lambda: ResNet34UNet(3, 1, 2), 32)])
def test_sizes_and_channels_are_checked(make, multiple):
    network = make()
    for shape in ((1, 3, multiple, multiple + 8), (1, 3, multiple // 2, multiple)):
        with pytest.raises(ValueError, match=f"multiples of {multiple}"):
            network(Tensor(np.zeros(shape, np.float32)))
    with pytest.raises(ValueError, match=r"expected \(N, 3, H, W\)"):
        network(Tensor(np.zeros((1, 1, multiple, multiple), np.float32)))


def test_unknown_upsampling_is_refused():
    with pytest.raises(ValueError, match="expected one of transposed, bilinear"):
        UNet2d(1, 1, 2, "nearest")


def test_mean_of_the_heads_counts_in_evaluation():
    network = UNetPP(1, 1, 2)
    x = picture(network, (16, 16))
    network.set_train(False)
    columns = []
    for head in network.heads:
        head.register_forward_hook(lambda cell, inputs, output: columns.append(output.asnumpy()))
    mean = network(x).asnumpy()
    assert len(columns) == 4
    np.testing.assert_allclose(mean, np.mean(columns, axis=0), atol=1e-6)


@pytest.mark.parametrize(("architecture", "kind"), [
    ("unet", UNet2d), ("attention_unet", AttentionUNet), ("resnet34_unet", ResNet34UNet), ("unetpp", UNetPP)])
def test_architecture_of_the_recipe(architecture, kind):
    network = build_network(load_recipe("unet2d_lgg", overrides=[f"architecture={architecture}", "base_channels=2"]))
    assert type(network) is kind and network.channels == 3


def test_output_channels_and_upsampling_of_the_recipe():
    recipe = load_recipe("unet2d_drive", overrides=["base_channels=2", "output_channels=2"])
    network = build_network(recipe)
    assert count(network) == count(UNet2d(1, 2, 2, "bilinear"))
    recipe = load_recipe("unet2d_drive", overrides=["base_channels=2", "upsampling=transposed"])
    assert count(build_network(recipe)) == unet(1, 1, 2)


def test_deep_supervision_of_the_recipe():
    for value, heads in (("true", 4), ("false", 1)):
        recipe = load_recipe("unet2d_lgg", overrides=["architecture=unetpp", "base_channels=2",
                                                      f"deep_supervision={value}"])
        cells = [cell for _, cell in build_network(recipe).cells_and_names() if isinstance(cell, PictureHead)]
        assert len(cells) == heads


@pytest.mark.parametrize("architecture", ["unet", "attention_unet"])
def test_dropout_at_the_bottom(architecture):
    recipe = load_recipe("unet2d_em", overrides=[f"architecture={architecture}", "base_channels=2", "dropout=0.4"])
    network = build_network(recipe)
    layers = [cell for _, cell in network.cells_and_names() if isinstance(cell, ChannelDropout)]
    assert [layer.probability for layer in layers] == [0.4]
    seen = []
    network.down.dropout.register_forward_hook(lambda cell, inputs, output: seen.append(output.asnumpy()))
    network.set_train(True)
    network(picture(network, (32, 32)))
    dropped = (seen[0] == 0).all((2, 3)).mean()
    assert 0.15 < dropped < 0.75 and seen[0].shape == (2, 32, 2, 2)


def test_mindir_gives_the_same(tmp_path, kernels_in_use):
    served = UNet2d(1, 1, 16, "bilinear")
    with select.stock_kernels():
        stock = UNet2d(1, 1, 16, "bilinear")
    ms.load_param_into_net(stock, served.parameters_dict())
    x = picture(served, (32, 32))
    for network in (served, stock):
        network.set_train(False)
    ms.export(stock, x, file_name=str(tmp_path / "unet.mindir"), file_format="MINDIR")
    graph = nn.GraphCell(ms.load(str(tmp_path / "unet.mindir")))
    assert relative_error(graph(x).asnumpy(), served(x).asnumpy()) < 1e-4
