"""A run begins with the weights of another, or with an encoder's of ImageNet."""

from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest

from src.checkpoint import cases_behind, save_checkpoint
from src.errors import UserError
from src.networks import ResNet34UNet, build_network, pretrained
from src.overrides import load_recipe
from src.training.pretrained import check_unseen, load_pretrained, pretrained_path, start_from_pretrained
from tests.networks.test_pretrained import value, weights

SMALL = load_recipe(overrides=["base_channels=2"])


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
    with pytest.raises(UserError, match=r"found no checkpoint in it or its folder ckpt, expected a run folder"):
        load_pretrained(network, tmp_path)


def test_a_damaged_own_checkpoint_is_not_taken_for_one_of_imagenet(tmp_path):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, ResNet34UNet(3, 1, 2), {"train_names": ["a"]})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint .*a.ckpt: .* cannot be read whole \(cut short, damaged"):
        load_pretrained(ResNet34UNet(3, 1, 2), path)


def test_words_beside_the_parameters_of_another_program_are_left_out(tmp_path):
    path = tmp_path / "b.ckpt"
    ms.save_checkpoint([{"name": "conv1.weight", "data": ms.Tensor(np.ones((64, 3, 7, 7), np.float32))}], str(path),
                       append_dict={"author": "somebody"})
    with pytest.raises(UserError, match=r"does not fit ResNet-34: .* parameters are missing"):
        load_pretrained(ResNet34UNet(3, 1, 2), path)


def test_folders_of_checkpoints_and_weights_of_the_wrong_program(tmp_path):
    network, other = build_network(SMALL), build_network(SMALL)
    save_checkpoint(tmp_path / "run/ckpt/checkpoint_vnet-2_1.ckpt", other, {"epoch": 2})
    for folder in ("run", "run/ckpt"):
        assert load_pretrained(network, tmp_path / folder) == {"epoch": 2}
    (tmp_path / "resnet.pth").touch()
    with pytest.raises(UserError, match=r"'pretrained': .*resnet.pth: found weights of PyTorch"):
        load_pretrained(network, tmp_path / "resnet.pth")


@pytest.mark.parametrize(("given", "message"), [
    ("runs/fold{fold}", r"'pretrained': runs/fold3: no such file or folder \(fold 3, seed 1\); name a run"),
    ("runs/a", r"'pretrained': runs/a: no such file or folder; name a run"),
    ("runs/fold{folds}", r"'pretrained': found {folds} in runs/fold{folds}, expected {fold} and {seed} alone"),
])
def test_a_path_that_leads_nowhere(given, message):
    with pytest.raises(UserError, match=message):
        pretrained_path({"pretrained": given, "fold": 3, "seed": 1})


def test_no_pretrained_weights():
    assert [pretrained_path(recipe) for recipe in ({}, {"pretrained": ""}, {"pretrained": "none"})] == [None] * 3


def run_on(folder, train, behind=()):
    return {"data_path": str(folder), "train_names": train, **({"pretrained_on": behind} if behind else {})}


def plan_on(folder, validation):
    return SimpleNamespace(data_path=folder, validation_names=validation, recipe=SimpleNamespace(pretrained="runs/b"))


def test_cases_behind_are_those_of_all_runs():
    first = run_on("/d", ["a", "b"])
    assert cases_behind({}) == []
    assert cases_behind(first) == [first]
    assert cases_behind(run_on("/d", ["c"], cases_behind(first))) == [run_on("/d", ["c"]), first]


@pytest.mark.parametrize("name", ["data", "data/../data", "link"])
def test_cases_seen_by_any_run_before_are_refused(tmp_path, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    behind = cases_behind(run_on(tmp_path / "data", ["c"], cases_behind(run_on(tmp_path / "data", ["a", "b"]))))
    check_unseen(behind, plan_on(tmp_path / name, ["d"]))
    with pytest.raises(UserError, match=r"runs/b was trained on 1 of the 2 validation cases \(b\), expected none"):
        check_unseen(behind, plan_on(tmp_path / name, ["b", "d"]))


def test_cases_of_another_folder_are_warned_of(tmp_path, caplog):
    check_unseen(cases_behind(run_on(tmp_path / "data", ["a"])), plan_on(tmp_path / "copy", ["a", "d"]))
    assert "that are named like 1 of the 2 validation cases (a): if they are the same" in caplog.text


def test_pretrained_of_the_recipe(monkeypatch, tmp_path):
    read: list[Path] = []
    content = weights("torch")
    monkeypatch.setattr(pretrained, "_read", lambda path: read.append(path) or content)
    path = tmp_path / "resnet34.pth"
    path.touch()
    recipe = load_recipe("unet2d_lgg", overrides=["architecture=resnet34_unet", "base_channels=2",
                                                  f"pretrained={path}"])
    network = build_network(recipe)
    assert read == []  # evaluating and resuming do without the file
    start_from_pretrained(network, recipe)
    assert read == [path]
    np.testing.assert_array_equal(value(network, "encoder.stem.conv.weight"), content["conv1.weight"])
    start_from_pretrained(network, load_recipe("unet2d_lgg", overrides=["architecture=resnet34_unet"]))
    start_from_pretrained(network, load_recipe())
    assert len(read) == 1
