"""The published result of a cross-validation, of folders that stand-ins for the two programs left."""

import json
import shutil

import accuracy
import pandas as pd
import pytest

from src.errors import EXIT_USER_ERROR
from src.training.cross_validation import run_fold
from src.training.cross_validation_plan import plan_cross_validation
from tests.training.cross_validation_stand_in import CASES, given, processes, read  # noqa: F401

# ruff: noqa: F811
DICE = {name[:-4]: 0.5 + number / 100 for number, name in enumerate(CASES)}


@pytest.fixture
def output(given, processes, tmp_path, monkeypatch):
    """Three folds of seeds 1 and 2 and of both together, whose Dice are those of `DICE`, 0.1 and 0.2 more."""
    monkeypatch.setattr(accuracy, "ROOT", tmp_path)
    for folder in ("benchmarks/results", "docs/images"):
        (tmp_path / folder).mkdir(parents=True)
    processes.bonus = {"seed2": 0.1, "together": 0.2}
    plan = plan_cross_validation(recipe_name="vnet_promise12", folds=3, seeds=[1, 2], together=True,
                                 eval_changes=("tta=x",), **given)
    history = {"epoch": [1, 2], "step": [3, 6], "loss": [0.5, 0.25], "val_dice": [None, 0.7], "seconds": [2.0, 3.0],
               "stall_share": [0.1, 0.0]}
    for seed in plan.groups:
        for fold in plan.folds:
            run_fold(plan, seed, fold)
            if seed is not None:
                pd.DataFrame(history).to_csv(plan.fold_folder(seed, fold) / "history.csv", index=False)
                saved = plan.fold_folder(seed, fold) / "recipe.json"
                saved.write_text(json.dumps({**read(saved), "backend": {"device": "CPU"}}))
    return given["output"]


def result(tmp_path, name="x"):
    return read(tmp_path / "benchmarks" / "results" / f"accuracy_{name}.json")


def test_several_seeds_count_by_their_networks_together(output, tmp_path):
    assert accuracy.main([str(output), "x"]) == 0
    found = result(tmp_path)
    assert found["dice_by_case"] == pytest.approx({case: dice + 0.2 for case, dice in DICE.items()})
    assert found["out_of_fold"]["dice"]["mean"] == pytest.approx(0.73)
    assert found["dice_by_seed"] == pytest.approx({"1": 0.53, "2": 0.63})
    assert [(run["seed"], run["fold"]) for run in found["folds"]] == [(s, f) for s in (1, 2) for f in range(3)]
    for seed in (1, 2):
        runs = [run for run in found["folds"] if run["seed"] == seed]
        total = sum(run["dice"] * run["cases"] for run in runs)
        assert total / sum(run["cases"] for run in runs) == pytest.approx(found["dice_by_seed"][str(seed)])
    assert sum(fold["dice"] * fold["cases"] for fold in found["together"]) == pytest.approx(7 * 0.73)
    (run, *_), (fold, *_) = found["folds"], found["together"]
    assert (run["steps"], run["seconds"], run["stall_share"]) == (6, 5.0, pytest.approx(0.04))
    assert run["curve"] == {"epoch": [2], "val_dice": [0.7], "loss": [0.5, 0.25]}
    assert len(run["commands"]) == 2 and "--run_dir seed1/fold0 --set" in run["commands"][0]
    assert "eval.py --ckpt_path seed1/fold0/ckpt/checkpoint_vnet-10_3.ckpt seed2/fold0/ckpt/" in fold["commands"][0]
    assert (tmp_path / "docs" / "images" / "accuracy_x.png").stat().st_size > 10_000


def test_one_seed_counts_by_itself(output, tmp_path):
    assert accuracy.main([str(output), "x", "--seed", "2"]) == 0
    found = result(tmp_path)
    assert found["out_of_fold"]["dice"]["mean"] == pytest.approx(0.63)
    assert {run["seed"] for run in found["folds"]} == {2} and "together" not in found
    shutil.rmtree(output / "seed2")
    (output / "seed1.bak").mkdir()  # neither a copy nor a seed that has only begun counts
    (output / "seed3" / "fold0").mkdir(parents=True)
    assert accuracy.main([str(output), "y"]) == 0
    assert result(tmp_path, "y")["out_of_fold"]["dice"]["mean"] == pytest.approx(0.53)


def refused(arguments, tmp_path, capsys) -> str:
    assert accuracy.main([*map(str, arguments), "x"]) == EXIT_USER_ERROR
    assert not (tmp_path / "benchmarks" / "results" / "accuracy_x.json").exists()
    return capsys.readouterr().err


def test_what_does_not_belong_together_is_refused(output, tmp_path, capsys):
    assert "nowhere: no evaluated fold of a seed in it" in refused([tmp_path / "nowhere"], tmp_path, capsys)
    stale = output / "together" / "fold1" / "out_of_fold" / "evaluated.json"
    as_it_was = stale.read_text()
    for change in ({"set": []}, {"cases": "0"}, {"checkpoints": {"seed1/fold1/ckpt/best.ckpt": "0"}}):
        stale.write_text(json.dumps({**json.loads(as_it_was), **change}))
        assert "together/fold1: evaluated as" in refused([output], tmp_path, capsys)
    stale.unlink()
    assert "fold 1 is evaluated in one of seed1 and together" in refused([output], tmp_path, capsys)
    stale.write_text(as_it_was)
    (output / "seed2" / "fold2" / "out_of_fold" / "evaluated.json").unlink()
    assert "fold 2 is evaluated in one of seed2 and together" in refused([output], tmp_path, capsys)


def test_a_seed_that_is_not_there(output, tmp_path, capsys):
    assert accuracy.main([str(output), "x", "--seed", "4"]) == EXIT_USER_ERROR
    assert "--seed 4: no evaluated fold of it" in capsys.readouterr().err
