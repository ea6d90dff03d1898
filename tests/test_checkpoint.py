"""Checkpoints come back whole or are refused by name."""

import json
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from src.checkpoint import (
    FORMAT_VERSION,
    LaterVersion,
    checkpoint_name,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    load_parameters,
    prune_checkpoints,
    run_folder_of,
    save_checkpoint,
)
from src.errors import UserError
from src.losses import build_loss
from src.networks import build_network
from src.overrides import load_recipe
from src.training.train_step import TrainStep


class Two(nn.Cell):
    def __init__(self, value=0.0, size=4):
        super().__init__()
        self.weight = Parameter(Tensor(np.full(size, value, np.float32)), name="weight")
        self.counter = Parameter(Tensor(7, ms.int64), name="dropout.counter", requires_grad=False)


def test_values_and_state_come_back(tmp_path):
    path = tmp_path / "ckpt" / checkpoint_name(3, 10)
    assert path.name == "checkpoint_vnet-3_10.ckpt"
    assert checkpoint_name(3, 10, "vnet_hippocampus") == "checkpoint_vnet-3_10.ckpt"
    assert checkpoint_name(3, 10, "unet2d_lgg") == "checkpoint_unet-3_10.ckpt"
    save_checkpoint(path, Two(1.5), {"epoch": 3, "train_names": ["Café.mhd"]})
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644
    checkpoint = load_checkpoint(path)
    assert checkpoint.state == {"epoch": 3, "train_names": ["Café.mhd"]}
    network = Two()
    load_parameters(checkpoint, network)
    assert network.weight.asnumpy().tolist() == [1.5] * 4


@pytest.mark.parametrize("keep", [0, 1, 0.5, -20, -1])
def test_a_file_cut_short_is_refused_and_the_one_before_used(tmp_path, keep, caplog):
    good, cut = tmp_path / checkpoint_name(1, 2), tmp_path / checkpoint_name(2, 2)
    save_checkpoint(good, Two(1), {"epoch": 1})
    save_checkpoint(cut, Two(2), {"epoch": 2})
    content = cut.read_bytes()
    cut.write_bytes(content[:int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match="checkpoint_vnet-2_2.ckpt: .*cut short"):
        load_checkpoint(cut)
    assert load_newest(tmp_path).state == {"epoch": 1}
    assert "checkpoint_vnet-2_2.ckpt" in caplog.text


def test_one_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / checkpoint_name(1, 1)
    save_checkpoint(path, Two(1, size=64), {"epoch": 1})
    content = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(content), 12):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(path)


def test_nothing_readable_is_an_error_and_nothing_there_is_not(tmp_path):
    assert load_newest(tmp_path) is None
    (tmp_path / checkpoint_name(1, 1)).write_bytes(b"")
    with pytest.raises(UserError, match="none of its 1 checkpoints"):
        load_newest(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_checkpoint(tmp_path / "missing.ckpt")
    (tmp_path / "vnet.mindir").write_bytes(b"x")
    with pytest.raises(UserError, match="predict.py --bundle"):
        load_checkpoint(tmp_path / "vnet.mindir")
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="rename the file"):
        load_checkpoint(tmp_path / "model.bin")


def test_a_checkpoint_of_another_program_has_no_state(tmp_path, caplog):
    path = tmp_path / checkpoint_name(9, 9)
    ms.save_checkpoint(Two(3), str(path))
    assert load_checkpoint(path).state == {}
    save_checkpoint(tmp_path / checkpoint_name(1, 1), Two(1), {"epoch": 1})
    assert load_newest(tmp_path).state == {"epoch": 1}
    assert "no training state" in caplog.text


def test_parameters_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, Two(1), {})
    with pytest.raises(UserError, match=r"weight has shape \(4,\), expected \(5,\)"):
        load_parameters(load_checkpoint(path), Two(size=5))
    checkpoint = load_checkpoint(path)
    del checkpoint.parameters["weight"]
    with pytest.raises(UserError, match="weight is missing"):
        load_parameters(checkpoint, Two())
    checkpoint = load_checkpoint(path)
    del checkpoint.parameters["dropout.counter"]  # plays no part at inference
    load_parameters(checkpoint, Two())


def test_newest_are_kept_by_number_and_rests_go(tmp_path):
    for epoch in (2, 9, 10, 11):
        save_checkpoint(tmp_path / checkpoint_name(epoch, 1), Two(), {"epoch": epoch})
    save_checkpoint(tmp_path / "best.ckpt", Two(), {"epoch": 2})
    (tmp_path / ".checkpoint_vnet-12_1.ckpt.4242.tmp.ckpt").write_bytes(b"half")
    prune_checkpoints(tmp_path, 3)
    assert [p.name for p in list_checkpoints(tmp_path)] == [checkpoint_name(e, 1) for e in (9, 10, 11)]
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".ckpt") == [
        "best.ckpt", *sorted(checkpoint_name(e, 1) for e in (9, 10, 11))]
    # A U-Net's run that an earlier version began goes on under names of today.
    save_checkpoint(tmp_path / (latest := checkpoint_name(12, 1, "unet3d_brain")), Two(), {"epoch": 12})
    prune_checkpoints(tmp_path, 2)
    assert [p.name for p in list_checkpoints(tmp_path)] == [checkpoint_name(11, 1), latest]
    assert load_newest(tmp_path).state["epoch"] == 12


def test_run_folder(tmp_path):
    inside = tmp_path / "run" / "ckpt" / "best.ckpt"
    inside.parent.mkdir(parents=True)
    assert run_folder_of(inside) is None
    (tmp_path / "run" / "recipe.json").write_text("{}")
    assert run_folder_of(inside) == tmp_path / "run"
    assert run_folder_of(tmp_path / "best.ckpt") is None


def trained_names_of_version_1(norm, prelu, down_units, up_units, out_conv):
    """Names of a network's trained parameters, as the code before the units of `src/ops/unit.py` made them."""
    def layer(conv, norm_name, act):
        return [f"{conv}.weight", f"{conv}.bias", *[f"{norm_name}.bn2d.{part}" for part in ("gamma", "beta")] * norm,
                *[f"{act}.weight"] * prelu]

    names = layer("input.conv", "input.norm", "input.act")
    for way, counts in (("down", down_units), ("up", up_units)):
        for i, count in enumerate(counts):
            stage = f"{way}s.{i}"
            names += layer(f"{stage}.{way}", f"{stage}.norm", f"{stage}.act")
            for k in range(count):
                names += layer(f"{stage}.units.{k}.conv", f"{stage}.units.{k}.norm", f"{stage}.units.{k}.act")
            names += [f"{stage}.out_act.weight"] * prelu
    if out_conv:
        names += layer("output.first.0", "output.first.1", "output.first.2")
    return [*names, "output.last.weight", "output.last.bias"]


def untrained_names_of_version_1(names):
    """Moving statistics beside each batch norm, and the dropout counters of the default variant."""
    found = [name.replace("gamma", part) for name in names if name.endswith("gamma")
             for part in ("moving_mean", "moving_variance")]
    dropouts = ["downs.2.dropout", "downs.3.dropout", "ups.0.dropout", "ups.1.dropout",
                *(f"ups.{i}.skip_dropout" for i in range(4))]
    return found + [f"{name}.counter" for name in dropouts]


def train_step(**changes):
    recipe = load_recipe(overrides=["base_channels=1", *(f"{key}={value}" for key, value in changes.items())])
    return TrainStep(build_network(recipe), build_loss({"loss": "dice"}), recipe,
                     SimpleNamespace(world_size=1, amp_level="O0", loss_scaling="off"))


@pytest.mark.parametrize(("changes", "layout", "moments"), [
    ({"activation": "prelu"}, (True, True, (1, 2, 3, 2), (2, 2, 1, 1), True), ("moment1.", "moment2.")),
    ({}, (True, False, (1, 2, 3, 2), (2, 2, 1, 1), True), ("moment1.", "moment2.")),
    ({"variant": "paper", "optimizer": "sgd"}, (False, True, (2, 3, 3, 3), (3, 3, 2, 1), False), ("moments.",)),
])
def test_version_1_gives_each_parameter_its_value(tmp_path, changes, layout, moments):
    trained = trained_names_of_version_1(*layout)
    untrained = untrained_names_of_version_1(trained) if layout[0] else []
    step = train_step(**changes)
    wanted = {parameter.name: parameter for parameter in step.get_parameters()}
    # Trained parameters have kept their order, so position decides which one a name of version 1 means.
    today = [parameter.name for parameter in step.parameters]
    meant = {prefix + old: prefix + new for prefix in ("", *moments)
             for old, new in zip(trained, today, strict=True)}
    for name in untrained:
        if name.endswith("counter"):
            meant[name] = name.replace(".dropout", ".block.dropout") if name.startswith("downs") else name
        else:
            norm, _, kind = name.rpartition(".")
            meant[name] = meant[f"{norm}.gamma"].replace("gamma", kind)
    assert {name for name in wanted if "." in name} == set(meant.values())
    old_style = [{"name": name, "data": ops.full_like(wanted[new], value)}
                 for value, (name, new) in enumerate(meant.items())]
    old_style += [{"name": name, "data": wanted[name]} for name in wanted if "." not in name]  # never renamed

    path = tmp_path / checkpoint_name(1, 1)
    ms.save_checkpoint(old_style, str(path), append_dict={"vnet_state": json.dumps({"epoch": 1})}, crc_check=True)
    checkpoint = load_newest(tmp_path)
    assert checkpoint.state == {"epoch": 1}
    assert set(checkpoint.parameters) == set(wanted)
    load_parameters(checkpoint, step)
    for value, name in enumerate(meant.values()):
        np.testing.assert_array_equal(wanted[name].asnumpy(), value, err_msg=name)


def test_names_of_some_parameters_of_version_1(tmp_path, caplog):
    caplog.set_level("INFO")
    renamed = {
        "input.conv.weight": "input.conv.weight",
        "downs.0.units.0.conv.weight": "downs.0.block.last.conv.weight",
        "downs.1.units.0.conv.weight": "downs.1.block.units.0.conv.weight",
        "downs.1.units.1.conv.weight": "downs.1.block.last.conv.weight",
        "moment2.downs.1.norm.bn2d.gamma": "moment2.downs.1.down.norm.bn2d.gamma",
        "ups.3.up.bias": "ups.3.up.conv.bias",
        "ups.3.out_act.weight": "ups.3.block.last.residual_act.weight",
        "ups.0.dropout.counter": "ups.0.dropout.counter",
        "output.last.weight": "output.last.conv.weight",
        "global_step": "global_step",
    }
    ms.save_checkpoint([{"name": name, "data": Tensor([1.0])} for name in renamed], str(tmp_path / "old.ckpt"))
    assert list(load_checkpoint(tmp_path / "old.ckpt").parameters) == list(renamed.values())
    assert "old.ckpt is of an earlier version" in caplog.text


def test_version_is_written_and_files_without_one_keep_todays_names(tmp_path):
    step = train_step()
    path = tmp_path / checkpoint_name(1, 1)
    save_checkpoint(path, step, {"epoch": 1})
    raw = ms.load_checkpoint(str(path))
    assert json.loads(raw.pop("vnet_state")) == {"epoch": 1, "format_version": FORMAT_VERSION}
    ms.save_checkpoint([{"name": name, "data": raw[name]} for name in raw], str(tmp_path / "unversioned.ckpt"))
    names = [parameter.name for parameter in step.get_parameters()]
    assert list(load_checkpoint(path).parameters) == names
    assert list(load_checkpoint(tmp_path / "unversioned.ckpt").parameters) == names


def test_later_version_is_refused_and_no_older_checkpoint_takes_its_place(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / checkpoint_name(1, 1), Two(1), {"epoch": 1})
    with monkeypatch.context() as patch:
        patch.setattr("src.checkpoint.FORMAT_VERSION", FORMAT_VERSION + 1)
        save_checkpoint(tmp_path / checkpoint_name(2, 1), Two(2), {"epoch": 2})
    with pytest.raises(LaterVersion, match=r"checkpoint_vnet-2_1.ckpt: format version 3, expected 2 at most"):
        load_newest(tmp_path)
