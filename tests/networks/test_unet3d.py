"""Sizes and parameter counts of the published network, cuts at every place, and gradients everywhere."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.networks import ForegroundProbability
from src.networks.unet3d import DECODER_PARAMETERS, ENCODER_PARAMETERS, UNet3d
from src.recipe_rules import UNET3D_BLOCKS, unet3d_size_problem
from src.training.pipeline_stage import live_tensors
from tests.ops.reference import relative_error

# X = 24, Y = 16, Z = 11, by the rules of valid convolutions: 3 x 3 x 2 takes (2, 2, 1) off; stride 2 halves, rounded
# down after taking 3 x 3 x 1 off; the decoder's way back adds what its kernels have beyond 1.
SIZES = [
    [(8, 24, 16, 11)], [(16, 24, 16, 11)], [(16, 22, 14, 10)], [(16, 22, 14, 10), (32, 10, 6, 5)],
    [(16, 22, 14, 10), (32, 10, 6, 5), (64, 4, 2, 3), (64, 2, 1, 3)],
    [(16, 22, 14, 10), (32, 10, 6, 5), (64, 4, 2, 3), (64, 4, 2, 3)],
    [(16, 22, 14, 10), (32, 10, 6, 5), (32, 10, 6, 6)], [(16, 22, 14, 10), (32, 10, 6, 5), (32, 8, 4, 4)],
    [(16, 22, 14, 10), (32, 10, 6, 5), (16, 10, 6, 5)], [(16, 22, 14, 10), (16, 22, 14, 10)],
    [(8, 24, 16, 10)], [(4, 24, 16, 14)], [(1, 24, 16, 11)]]


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((1, 4, 24, 16, 11), dtype=np.float32)


def count(cell: nn.Cell, trainable: bool | None = None) -> int:
    return sum(p.size for p in cell.get_parameters() if trainable is None or p.requires_grad == trainable)


def test_parameter_count():
    network = UNet3d()
    assert (count(network.encoder), count(network.decoder)) == (32_664, 121_373)
    assert (ENCODER_PARAMETERS, DECODER_PARAMETERS) == (32_664, 121_373)
    assert (count(network), count(network, True), count(network, False)) == (154_037, 153_149, 888)


def test_live_tensors_after_each_block(image, kernels_in_use):
    network = UNet3d()
    blocks = network.blocks()
    assert len(blocks) == UNET3D_BLOCKS == len(SIZES)
    live = (Tensor(image),)
    for number, (block, expected) in enumerate(zip(blocks, SIZES, strict=True), 1):
        live = block(live)
        assert [tensor.shape[1:] for tensor in live] == expected
        assert live_tensors(blocks, number) == len(expected)
    np.testing.assert_allclose(network(Tensor(image)).asnumpy(), live[0].asnumpy(), atol=1e-5)


def published_sizes(x: int, z: int) -> list[tuple[int, int]]:
    """Return (X, Z) after each size-changing layer, by the kernels that the network is built of."""
    sizes = [(x, z)]
    for block in UNet3d().blocks():
        kernel = block.conv.weight.shape[2:]
        now = sizes[-1]
        kind = type(block.conv).__name__
        factor = (1, 1)
        if kind == "UpConv3dTranspose":
            factor = (2 if 2 in block.conv.doubled else 1, 2 if 4 in block.conv.doubled else 1)
        change = (kernel[0] - 1, kernel[2] - 1)
        if kind == "Conv3d" and block.conv.padding != (0,) * 6:
            change = (0, 0)
        if kind == "UpConv3dTranspose" and factor[1] == 1:  # the one with `same`
            change = (0, 0)
        if kind == "Conv3d":
            stride = block.conv.stride[-1]
            sizes.append(tuple((n - c - 1) // stride + 1 for n, c in zip(now, change, strict=True)))
        else:
            sizes.append(tuple(n * f + c for n, f, c in zip(now, factor, change, strict=True)))
        if block.pool:
            sizes.append((sizes[-1][0] // 2, sizes[-1][1]))
    return sizes[1:]


def test_sizes_of_the_published_input():
    assert published_sizes(240, 155) == [
        (240, 155), (240, 155), (238, 154), (118, 77), (58, 39), (29, 39), (58, 39), (118, 78), (116, 76), (118, 77),
        (238, 154), (240, 154), (240, 158), (240, 155)]


@pytest.mark.parametrize(("size", "fits"), [
    ((240, 240, 155), True), ((16, 16, 7), True), ((20, 16, 7), False), ((16, 12, 7), False), ((16, 16, 8), False),
    ((16, 16, 3), False), ((8, 16, 7), False), ((16, 16, 9), False)])
def test_sizes_that_fit(size, fits):
    assert (unet3d_size_problem(size) == "") == fits
    if not fits:
        assert "x".join(map(str, size)) in unet3d_size_problem(size).replace(" ", "")
        with pytest.raises(ValueError, match="multiples of 8"):
            UNet3d()(Tensor(np.zeros((1, 4, *size), np.float32)))


def test_channels_are_checked():
    with pytest.raises(ValueError, match="expected 4 channels"):
        UNet3d()(Tensor(np.zeros((1, 1, 16, 16, 7), np.float32)))


def test_gradient_reaches_every_parameter(image, kernels_in_use):
    network = UNet3d()
    network.set_train(True)

    def mean_square(x: Tensor) -> Tensor:
        logits = network(x)
        return (logits * logits).mean()

    gradients = ops.value_and_grad(mean_square, None, network.trainable_params())(Tensor(image))[1]
    silent = [p.name for p, g in zip(network.trainable_params(), gradients, strict=True)
              if not np.abs(g.asnumpy()).max() > 0]
    assert silent == []


def test_kernels_and_stock_operators_agree(image, library, monkeypatch):
    from src.ops import select
    stock = UNet3d()
    monkeypatch.setattr(select, "_library", library)
    monkeypatch.setattr(select, "_decided", True)
    served = UNet3d()
    for ours, theirs in zip(served.get_parameters(), stock.get_parameters(), strict=True):
        assert ours.name == theirs.name
        theirs.set_data(Tensor(ours.asnumpy().copy()))
    for training in (True, False):
        stock.set_train(training)
        served.set_train(training)
        assert relative_error(served(Tensor(image)).asnumpy(), stock(Tensor(image)).asnumpy()) < 1e-4


def test_probability_is_the_sigmoid_of_the_logit():
    class Logit(nn.Cell):
        def construct(self, x: Tensor) -> Tensor:
            return x

    values = np.array([-2.0, 0.0, 3.0], np.float32)
    found = ForegroundProbability(Logit())(Tensor(values.reshape(1, 1, 3, 1, 1))).asnumpy()
    np.testing.assert_allclose(found.ravel(), 1 / (1 + np.exp(-values)), rtol=1e-6)
