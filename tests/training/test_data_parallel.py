"""Two ranks as processes of their own, against one rank with twice the batch."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pandas as pd
import pytest

from src.backend import Backend
from src.checkpoint import list_checkpoints
from src.data import get_task
from src.data.data_manager import DataManager
from src.data.split import write_split
from src.inference import predictor as predictor_module
from src.inference.evaluate import ValidationSet
from src.inference.predictor import load_checkpoint_predictor
from tests.training import rank_worker
from tests.training.helpers import small_network
from tests.training.ranks import ROOT, run_on_ranks

SAMPLE = ROOT / "data" / "sample"
VALIDATION = ["Case24.mhd", "Case25.mhd", "Case26.mhd"]


@pytest.fixture(scope="module")
def ranks_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(ranks_folder) -> list[dict]:
    """What each rank found, see rank_worker.py."""
    folder = ranks_folder
    write_split(folder / "train.csv", [f"Case{number:02d}.mhd" for number in range(6)])
    write_split(folder / "val.csv", VALIDATION)
    said = run_on_ranks(2, [ROOT / "tests/training/rank_worker.py", folder], folder, MS_NODE_TIMEOUT="3")
    assert "rank 0 of 2: 2 samples a step on each rank, 4 in all; base learning rate 0.001 (lr_scaling linear)" in said
    return [pickle.loads((folder / f"rank{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.fixture
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def differences(found: dict, expected: dict) -> dict[str, float]:
    return {name: float(np.abs(found[name] - expected[name]).max()) for name in expected}


@pytest.mark.parametrize("run", ["paper", "sync_bn"])
def test_two_ranks_equal_one_with_twice_the_batch(ranks, run, graph_mode, kernels_in_use):
    expected = rank_worker.train(run, 4, Backend("CPU"))
    assert expected["losses"][-1] < expected["losses"][0]
    for found in ranks:
        assert found[run].keys() == expected.keys()  # sync_bn changes no name
        worst = max(differences(found[run], expected).values())
        print(f"{run}: largest difference of any weight after {rank_worker.STEPS} steps: {worst:.2e}")
        assert worst < 1e-5


def test_batch_norm_of_each_rank_is_its_own_unless_synchronised(ranks):
    one, other = (found["own_bn"] for found in ranks)
    apart = differences(one, other)
    statistics = [name for name in apart if "moving" in name]
    assert min(apart[name] for name in statistics if name.endswith("moving_mean")) > 0
    assert {apart[name] for name in apart if name not in statistics} == {0.0}  # weights and losses are the same
    together = differences(ranks[0]["sync_bn"], ranks[1]["sync_bn"])
    assert max(together.values()) == 0


@pytest.mark.parametrize("way", ["overflow", "overflow through sockets"])
def test_an_overflow_on_one_rank_skips_the_step_on_all(ranks, way):
    one, other = (found[way]["seen"] for found in ranks)
    np.testing.assert_array_equal(one, other)
    losses, applied, norms, scales, weights = zip(*one, strict=True)
    # Logits are half of the image: rank 0 has (1, 2), rank 1 (1, 3); mean of (logit²) / 2 over two voxels.
    assert losses[0] == pytest.approx(((0.25 + 1) / 4 + (0.25 + 2.25) / 4) / 2)
    # The gradient at the weight is mean(logit * x): 1.25 and 2.5.
    assert weights[0] == pytest.approx(0.5 - 0.1 * 1.875)
    assert applied == (True, False, True)
    assert weights[1] == weights[0]
    assert weights[2] < weights[1]
    assert not np.isfinite(norms[1])
    assert scales == (1024, 1024, 512)


def test_ranks_of_one_machine_share_memory(ranks):
    for found in ranks:
        assert found["overflow"]["mean"] == "MeanInSharedMemory"
        assert found["overflow through sockets"]["mean"] == "MeanByCollectives"


def test_shared_evaluation_equals_that_of_one_rank(ranks, ranks_folder, tmp_path):
    rank_worker.evaluate(tmp_path, Backend("CPU"))
    two = ranks_folder / "evaluation"
    one, other = (sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*") if "split" not in path.name)
                  for folder in (tmp_path, two))
    assert one == other
    assert [name for name in one if name.endswith(".mhd")] == [f"masks/Case{n}_test.mhd" for n in (24, 25, 26)]
    for name in one:
        if not name.endswith(".html"):  # which has the time in it
            assert (tmp_path / name).read_bytes() == (two / name).read_bytes(), name
    table = pd.read_csv(two / "metrics.csv")
    assert table["case_id"].tolist() == ["Case26", "Case24", "Case25"]
    assert table["dice"].max() > 0
    # Each case has its picture in rank 0's report, whoever predicted it.
    assert (two / "report.html").read_text().count("data:image/png") == (
        tmp_path / "report.html").read_text().count("data:image/png")


def test_ranks_tell_each_other_what_they_know(ranks):
    for rank, found in enumerate(found["messages"] for found in ranks):
        assert [value["rank"] for value in found["gathered"]] == [0, 1]
        assert [value["value"] for value in found["gathered"]] == [0.1, 1.1]
        assert [value["bytes"] for value in found["gathered"]] == [bytes(range(256)), bytes(range(256)) * 41]
        assert found["own"] == [["a", "c", "e"], ["b", "d"]][rank]
        assert found["all"] == ["A", "B", "C", "D", "E"]
        assert found["problem"] == "UserError: Case01: cannot be read"
        assert found["average"] == [[1.0, 4.0]]


@pytest.mark.parametrize("way", ["gather", "all-reduce"])
def test_a_late_rank_is_waited_for(ranks, way):
    """Longer than the 3 s that MindSpore was told to wait, by a variable that may be set for another program."""
    found = [one["lateness"][way] for one in ranks]
    assert found == {"gather": [[0, 1], [0, 1]], "all-reduce": [[2.0], [2.0]]}[way]
    assert ranks[0]["lateness"][f"{way} took"] > rank_worker.LATE_SECONDS - 1


@pytest.fixture(scope="module")
def run(ranks, ranks_folder) -> Path:
    """Two epochs of train.py on two ranks, see rank_worker.py."""
    return ranks_folder / "run"


def history(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "history.csv", float_precision="round_trip")


def test_shared_validation_equals_that_of_one_rank(run, kernels_in_use, graph_mode, monkeypatch):
    monkeypatch.setattr(predictor_module, "build_network", small_network)
    predictor, recipe, checkpoint = load_checkpoint_predictor(list_checkpoints(run / "ckpt")[1])
    validation = ValidationSet(DataManager.from_config(recipe), get_task(recipe.task).find_cases(SAMPLE, VALIDATION))
    rows = history(run)
    assert rows["epoch"].tolist() == [1, 2]
    assert rows["val_dice"][1] == validation.run(predictor).mean_dice
    assert checkpoint.state["best_dice"] == rows["val_dice"].max() > 0
    # Ranks above 0 come to the same result, and write nothing but their log.
    assert f"epoch: 2 validation dice: {rows['val_dice'][1]:.4f}" in (run / "train_rank1.log").read_text()
    assert {path.name for path in run.iterdir()} == {"args.json", "ckpt", "history.csv", "recipe.json", "tensorboard",
                                                     "train.csv", "train_rank0.log", "train_rank1.log", "val.csv"}


def test_resumes_with_another_number_of_ranks(run, tmp_path):
    """Two epochs of two steps on two ranks go on as epochs of three steps on one."""
    shutil.copytree(run, tmp_path / "run")
    command = [sys.executable, "tests/training/small_train.py", "--resume", tmp_path / "run", "--epochs", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "an epoch now has 3 steps, not 2: going on at epoch 2" in done.stdout
    rows = history(tmp_path / "run")
    assert rows["epoch"].tolist() == [1, 2, 3]
    assert rows["step"].tolist() == [2, 4, 9]
    assert rows["skipped_steps"].tolist() == [0, 0, 0]
    pd.testing.assert_frame_equal(rows[:2], history(run))
