"""ImageNet weights reach the encoder by the names of three programs, and what does not fit is told."""


import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from numpy.lib.stride_tricks import sliding_window_view

from src.errors import UserError
from src.networks import ResNet34UNet, pretrained
from src.networks.pretrained import encoder_name, load_encoder
from src.ops import PictureLayout
from tests.ops.reference import relative_error
from tests.ops.test_conv import convolve

NORM = {"torch": ("weight", "bias", "running_mean", "running_var"),
        "zoo": ("gamma", "beta", "moving_mean", "moving_variance"),
        "mindcv": ("gamma", "beta", "moving_mean", "moving_variance")}
BLOCK_NORMS = {"torch": ("bn1", "bn2"), "zoo": ("bn1d", "bn2d"), "mindcv": ("bn1", "bn2")}
SHORTCUT = {"torch": "downsample", "zoo": "down_sample_layer", "mindcv": "down_sample"}


def weights(style: str) -> dict[str, np.ndarray]:
    """Return a ResNet-34's parameters by the names of `style`, and a classifier."""
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}

    def add(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        found[f"{conv}.weight"] = rng.normal(size=shape).astype(np.float32)
        for part in NORM[style]:
            found[f"{norm}.{part}"] = rng.random(shape[0], np.float32)
        if style == "torch":
            found[f"{norm}.num_batches_tracked"] = np.array(5)

    add("conv1", "bn1", (64, 3, 7, 7))
    before = 64
    for layer, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for k in range(blocks):
            name = f"layer{layer}.{k}"
            first, second = BLOCK_NORMS[style]
            add(f"{name}.conv1", f"{name}.{first}", (width, before, 3, 3))
            add(f"{name}.conv2", f"{name}.{second}", (width, width, 3, 3))
            if before != width:
                add(f"{name}.{SHORTCUT[style]}.0", f"{name}.{SHORTCUT[style]}.1", (width, before, 1, 1))
            before = width
    found["fc.weight" if style == "torch" else "end_point.weight"] = np.zeros((10, 512), np.float32)
    return found


@pytest.fixture(scope="module")
def network() -> ResNet34UNet:
    return ResNet34UNet(3, 1, 2)


def value(network, name):
    return network.parameters_dict()[name].asnumpy()


@pytest.mark.parametrize("style", NORM)
def test_each_programs_names(style, network, tmp_path, monkeypatch):
    content = weights(style)
    if style == "torch":
        path = tmp_path / "resnet34.pth"
        path.touch()
        monkeypatch.setattr(pretrained, "read_torch_file", lambda path: content)
    else:
        path = tmp_path / "resnet34.ckpt"
        ms.save_checkpoint([{"name": name, "data": Tensor(array)} for name, array in content.items()], str(path))
    decoder = value(network, "blocks.0.first.conv.weight")
    load_encoder(network, path)
    mean, beta, block = NORM[style][2], NORM[style][1], BLOCK_NORMS[style]
    for ours, theirs in (
            ("stem.conv.weight", "conv1.weight"), ("stem.norm.moving_mean", f"bn1.{mean}"),
            ("layers.0.2.second.conv.weight", "layer1.2.conv2.weight"),
            ("layers.3.0.first.norm.beta", f"layer4.0.{block[0]}.{beta}"),
            ("layers.1.0.shortcut.conv.weight", f"layer2.0.{SHORTCUT[style]}.0.weight"),
            ("layers.1.0.shortcut.norm.moving_mean", f"layer2.0.{SHORTCUT[style]}.1.{mean}")):
        np.testing.assert_array_equal(value(network, f"encoder.{ours}"), content[theirs])
    np.testing.assert_array_equal(value(network, "blocks.0.first.conv.weight"), decoder)


def torchvision_features(x: np.ndarray, content: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return what torchvision's ResNet-34 makes of x at 1/2, 1/4, ... 1/32, by its definition and names, in float64."""
    def unit(x, conv, norm, stride, pad):
        y = convolve(x, content[f"{conv}.weight"], (stride, stride), (pad, pad), (pad, pad))
        weight, bias, mean, variance = (content[f"{norm}.{part}"][:, None, None].astype(np.float64)
                                        for part in NORM["torch"])
        return (y - mean) / np.sqrt(variance + 1e-5) * weight + bias

    found = [np.maximum(unit(x, "conv1", "bn1", 2, 3), 0)]
    bordered = np.pad(found[0], [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    x = sliding_window_view(bordered, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))
    for layer, blocks in enumerate((3, 4, 6, 3), 1):
        for k in range(blocks):
            name, stride = f"layer{layer}.{k}", 2 if layer > 1 and k == 0 else 1
            y = np.maximum(unit(x, f"{name}.conv1", f"{name}.bn1", stride, 1), 0)
            y = unit(y, f"{name}.conv2", f"{name}.bn2", 1, 1)
            if f"{name}.downsample.0.weight" in content:
                x = unit(x, f"{name}.downsample.0", f"{name}.downsample.1", stride, 0)
            x = np.maximum(x + y, 0)
        found.append(x)
    return found


def test_the_encoder_computes_what_torchvisions_does(network, tmp_path, monkeypatch):
    content = weights("torch")
    for name, array in content.items():
        if array.ndim == 4:
            content[name] = array / np.float32(np.sqrt(array[0].size))  # else numbers grow from layer to layer
    monkeypatch.setattr(pretrained, "_read", lambda path: content)
    load_encoder(network, tmp_path / "a.pth")
    network.set_train(False)
    x = np.random.default_rng(1).normal(size=(1, 3, 64, 32)).astype(np.float32)
    expected = torchvision_features(x, content)
    features = [PictureLayout(False)(feature).asnumpy() for feature in network.encoder(Tensor(x))]
    assert len(features) == len(expected) == 5
    for mine, theirs in zip(features, expected, strict=True):
        assert relative_error(mine, theirs) < 1e-4


def test_names_without_a_place():
    for name in ("fc.weight", "bn1.num_batches_tracked", "layer5.0.conv1.weight"):
        assert encoder_name(name) is None


def test_first_convolution_of_other_channels(tmp_path, monkeypatch):
    content = weights("torch")
    monkeypatch.setattr(pretrained, "_read", lambda path: content)
    for channels in (1, 4):
        network = ResNet34UNet(channels, 1, 2)
        load_encoder(network, tmp_path / "a.pth")
        found = value(network, "encoder.stem.conv.weight")
        assert found.shape == (64, channels, 7, 7)
        # A picture whose channels are alike sees the sum over channels: the same as of a grey RGB picture.
        np.testing.assert_allclose(found.sum(1), content["conv1.weight"].sum(1), rtol=1e-5, atol=1e-5)
        assert (found == found[:, :1]).all()


def test_all_that_does_not_fit_is_told(network, tmp_path, monkeypatch):
    content = weights("torch")
    del content["layer4.2.conv2.weight"], content["bn1.weight"]
    content["layer1.0.conv1.weight"] = np.zeros((64, 256, 1, 1), np.float32)
    monkeypatch.setattr(pretrained, "_read", lambda path: content)
    before = value(network, "encoder.stem.conv.weight")
    with pytest.raises(UserError) as error:
        load_encoder(network, tmp_path / "r.pth")
    for words in ("2 of 180 parameters are missing, 1 have another shape", "encoder.stem.norm.gamma is missing",
                  "encoder.layers.3.2.second.conv.weight is missing",
                  "encoder.layers.0.0.first.conv.weight has shape (64, 256, 1, 1), expected (64, 64, 3, 3)"):
        assert words in str(error.value)
    np.testing.assert_array_equal(value(network, "encoder.stem.conv.weight"), before)


def test_files_that_are_none(network, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_encoder(network, tmp_path / "a.pth")
    for name, words in (("a.onnx", "expected MindSpore's .ckpt or torchvision's .pth"),
                        ("a.ckpt", "MindSpore checkpoint"), ("a.pth", "no PyTorch file")):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=words):
            load_encoder(network, tmp_path / name)
