"""A run begins with the weights of another, or with an encoder's of ImageNet."""

from pathlib import Path

import numpy as np
import pytest

from src.checkpoint import save_checkpoint
from src.errors import UserError
from src.networks import ResNet34UNet, build_network, pretrained
from src.overrides import load_recipe
from src.training.pretrained import load_pretrained, start_from_pretrained
from tests.networks.test_pretrained import value, weights


def test_own_checkpoints_give_all_weights(tmp_path):
    """Of a ResNet-34 U-Net as well, whose decoder ImageNet has no weights for."""
    network, other = ResNet34UNet(3, 1, 2), ResNet34UNet(3, 1, 2)
    assert not np.array_equal(value(other, "blocks.0.first.conv.weight"), value(network, "blocks.0.first.conv.weight"))
    save_checkpoint(tmp_path / "a.ckpt", other, {"train_names": ["a"], "epoch": 7})
    assert load_pretrained(network, tmp_path / "a.ckpt") == {"train_names": ["a"], "epoch": 7}
    for name in ("blocks.0.first.conv.weight", "encoder.stem.conv.weight"):
        np.testing.assert_array_equal(value(network, name), value(other, name))
    with pytest.raises(UserError, match=r"a.ckpt does not fit the network: .*has shape"):
        load_pretrained(ResNet34UNet(1, 1, 2), tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"found no checkpoint in its folder ckpt, expected a run folder"):
        load_pretrained(network, tmp_path)


def test_pretrained_of_the_recipe(monkeypatch):
    read: list[Path] = []
    content = weights("torch")
    monkeypatch.setattr(pretrained, "_read", lambda path: read.append(path) or content)
    recipe = load_recipe("unet2d_lgg", overrides=["architecture=resnet34_unet", "base_channels=2",
                                                  "pretrained=weights/resnet34.pth"])
    network = build_network(recipe)
    assert read == []  # evaluating and resuming do without the file
    start_from_pretrained(network, recipe)
    assert read == [Path("weights/resnet34.pth")]
    np.testing.assert_array_equal(value(network, "encoder.stem.conv.weight"), content["conv1.weight"])
    start_from_pretrained(network, load_recipe("unet2d_lgg", overrides=["architecture=resnet34_unet"]))
    start_from_pretrained(network, load_recipe())
    assert len(read) == 1
