"""How the mean over ranks is chosen; what it computes on real ranks is in test_data_parallel.py."""

import errno
import os
from pathlib import Path

import pytest
from mindspore import Tensor, nn, ops

from src.backend import Backend
from src.training import reduce as module
from src.training.reduce import MeanByCollectives, MeanInSharedMemory, OwnValues, build_mean, lost_rank

TWO = Backend("CPU", world_size=2)


class Reducer(nn.Cell):
    """In place of MindSpore's reducer."""

    def __init__(self, parameters, mean, degree):
        super().__init__(auto_prefix=False)
        assert (mean, degree) == (True, 2)

    def construct(self, gradients):
        return gradients


@pytest.fixture(autouse=True)
def collectives(monkeypatch):
    monkeypatch.setattr(nn, "DistributedGradReducer", Reducer)
    monkeypatch.setattr(ops, "AllReduce", lambda op: nn.Identity())


@pytest.fixture
def the_other_says(monkeypatch):
    """Let another rank say what this one says, unless it is given answers of its own by turn."""
    def answer(**answers):
        asked = []

        def gather(backend, value):
            asked.append(value)
            return [value, answers.get(f"turn{len(asked)}", value)]

        monkeypatch.setattr(module, "gather", gather)
        return asked

    return answer


def test_one_rank_keeps_its_values():
    cell = build_mean([], Backend("CPU"))
    assert isinstance(cell, OwnValues)
    gradients, loss = cell((Tensor([1.0]),), Tensor(2.0))
    assert (gradients[0].asnumpy().tolist(), loss.asnumpy()) == ([1.0], 2.0)


def test_ranks_of_one_machine_share_memory_and_leave_no_file(the_other_says, kernels_in_use, monkeypatch):
    shared = []
    monkeypatch.setattr(type(kernels_in_use), "share_memory",
                        lambda self, path, rank, ranks: shared.append((path, Path(path).stat().st_size, rank, ranks)))
    asked = the_other_says()
    assert isinstance(build_mean([], TWO), MeanInSharedMemory)
    (path, size, rank, ranks), = shared
    assert (size, rank, ranks) == (kernels_in_use.shared_bytes(2), 0, 2)
    assert asked[1] == path
    assert not Path(path).exists()


@pytest.mark.parametrize(("answers", "warning"), [
    ({"turn1": "another machine"}, ""), ({"turn1": None}, ""), ({"turn3": "Permission denied"}, "Permission denied")])
def test_otherwise_they_use_the_collectives(answers, warning, the_other_says, kernels_in_use, monkeypatch, caplog):
    monkeypatch.setattr(type(kernels_in_use), "share_memory", lambda *_: None)
    the_other_says(**answers)
    cell = build_mean([], TWO)
    assert isinstance(cell, MeanByCollectives)
    assert ("the ranks share no memory (rank 1: Permission denied)" in caplog.text) == bool(warning)
    gradients, loss = cell((Tensor([1.0]),), Tensor(3.0))
    assert (gradients[0].asnumpy().tolist(), loss.asnumpy()) == ([1.0], 1.5)


def test_no_folder_for_shared_memory(the_other_says, kernels_in_use, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(module, "_SHARED_FOLDER", tmp_path / "nowhere")
    the_other_says()
    assert isinstance(build_mean([], TWO), MeanByCollectives)
    assert "rank 0 could not make a file" in caplog.text


def test_a_full_folder_for_shared_memory(the_other_says, kernels_in_use, monkeypatch, caplog, tmp_path):
    """Found out before a rank writes where there is no room, which would end it with SIGBUS."""
    def full(file, offset, size):
        assert (offset, size) == (0, kernels_in_use.shared_bytes(2))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(module, "_SHARED_FOLDER", tmp_path)
    the_other_says()
    assert isinstance(build_mean([], TWO), MeanByCollectives)
    assert "rank 0 could not make a file" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["Ascend", "GPU", "CPU"])
def test_without_the_cpu_kernels_the_collectives_do_it(device, the_other_says):
    the_other_says()
    assert isinstance(build_mean([], Backend(device, world_size=2)), MeanByCollectives)


def test_a_lost_rank_is_told_in_one_line():
    said = "rank 1 (process 77) has ended while rank 0 waited for its gradients"
    assert str(lost_rank(RuntimeError(f"CPU kernel MeanOverRanks: {said}\n- C++ Call Stack: ..."))) == (
        f"{said}; look at that rank's log, and continue with --resume RUN_DIR")
    failed = RuntimeError("Launch kernel failed, name:Default/mean_over_ranks/AllReduce-op0\n- C++ Call Stack: ...")
    assert str(lost_rank(failed)).startswith("MindSpore's AllReduce between the ranks failed: another rank ended, or ")
    assert "\n" not in str(lost_rank(failed))
    assert lost_rank(RuntimeError("something else")) is None
