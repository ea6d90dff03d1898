"""Checkpoints come back whole or are refused by name."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from src.checkpoint import (
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


class Two(nn.Cell):
    def __init__(self, value=0.0, size=4):
        super().__init__()
        self.weight = Parameter(Tensor(np.full(size, value, np.float32)), name="weight")
        self.counter = Parameter(Tensor(7, ms.int64), name="dropout.counter", requires_grad=False)


def test_values_and_state_come_back(tmp_path):
    path = tmp_path / "ckpt" / checkpoint_name(3, 10)
    assert path.name == "checkpoint_vnet-3_10.ckpt"
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


def test_run_folder(tmp_path):
    inside = tmp_path / "run" / "ckpt" / "best.ckpt"
    inside.parent.mkdir(parents=True)
    assert run_folder_of(inside) is None
    (tmp_path / "run" / "recipe.json").write_text("{}")
    assert run_folder_of(inside) == tmp_path / "run"
    assert run_folder_of(tmp_path / "best.ckpt") is None
