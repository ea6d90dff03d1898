import csv
import logging
import math

import numpy as np
import pytest

from src.data.geometry import Geometry
from src.data.split import fold_split
from src.errors import DataError, UserError
from src.metrics.cases import evaluate_case, write_metrics_csv, write_rows
from src.metrics.promise12 import KEYS, region_metrics
from src.metrics.rand import THRESHOLDS
from src.training.cross_validation import run_fold
from src.training.cross_validation_plan import plan_cross_validation
from src.training.out_of_fold import collect
from tests.training.cross_validation_stand_in import CASES, given, processes, read, row_of  # noqa: F401

# ruff: noqa: F811


@pytest.fixture
def run_plan(given, processes):
    def run(**options):
        plan = plan_cross_validation(recipe_name="vnet_promise12", folds=3, **given, **options)
        for seed in plan.seeds:
            for fold in plan.folds:
                run_fold(plan, seed, fold)
        return plan

    return run


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_case_once_with_its_fold(run_plan):
    plan = run_plan()
    collect(plan)
    lines = table(plan.output / "seed1" / "metrics.csv")
    assert list(lines[0])[:3] == ["case_id", "fold", "dice"]
    folds = [fold_split(CASES, fold, 3, 1)[1] for fold in range(3)]
    assert [(line["case_id"], int(line["fold"])) for line in lines] == [
        (name[:-4], fold) for fold, names in enumerate(folds) for name in names]
    assert all(float(line["dice"]) == row_of(line["case_id"])["dice"] for line in lines)


def test_summary_of_a_seed(run_plan):
    plan = run_plan()
    collect(plan)
    summary = read(plan.output / "seed1" / "summary.json")
    # Dice 0.50, 0.51 ... 0.56: mean 0.53, squared deviations 2 * (1 + 4 + 9) * 1e-4 over 6.
    assert (summary["cases"], summary["seed"], summary["checkpoint"], summary["set"]) == (7, 1, "last", [])
    assert summary["dice"] == pytest.approx({"mean": 0.53, "sd": math.sqrt(28e-4 / 6), "median": 0.53, "min": 0.5,
                                             "max": 0.56})
    for fold in range(3):
        numbers = [int(name[4:6]) for name in fold_split(CASES, fold, 3, 1)[1]]
        assert summary["folds"][fold]["cases"] == len(numbers)
        assert summary["folds"][fold]["dice"] == pytest.approx(0.5 + np.mean(numbers) / 100)
        assert summary["folds"][fold]["hausdorff"] == pytest.approx(np.mean(numbers))


def test_seeds_together_are_one_more_column_and_not_one_more_seed(run_plan, processes, caplog):
    caplog.set_level(logging.INFO)
    processes.bonus |= {"seed8": 0.06, "together": 0.1}
    plan = run_plan(seeds=[3, 8], together=True)
    assert collect(plan) is None
    assert "networks of seeds 3, 8 together: no summary yet, since fold 0, 1, 2 of 3" in caplog.text
    for fold in plan.folds:
        run_fold(plan, None, fold)
    summary = collect(plan)
    assert summary["dice"]["together"] == pytest.approx(0.63)
    assert summary["dice"]["mean"] == pytest.approx(0.56) and len(summary["dice"]["by_seed"]) == 2
    own = read(plan.output / "together" / "summary.json")
    assert own["seeds"] == [3, 8] and "seed" not in own and own["dice"]["mean"] == pytest.approx(0.63)
    assert len(table(plan.output / "together" / "metrics.csv")) == 7
    assert "The probabilities of 2 networks are averaged" in (plan.output / "together/report.html").read_text()
    lines = [" ".join(line.split()) for line in caplog.messages[-1].splitlines()]
    assert "networks of seeds 3, 8 together, all cases 7 0.6300 3.00 3.00 3.00" in lines


def test_summary_over_seeds(run_plan, processes, caplog):
    caplog.set_level(logging.INFO)
    processes.bonus["seed8"] = 0.06
    plan = run_plan(seeds=[3, 8])
    summary = collect(plan)
    assert summary == read(plan.output / "summary.json")
    assert (summary["seeds"], summary["cases"]) == ([3, 8], 7)
    assert summary["dice"]["by_seed"] == pytest.approx([0.53, 0.59])
    assert summary["dice"]["mean"] == pytest.approx(0.56)
    assert summary["dice"]["sd"] == pytest.approx(0.06 / math.sqrt(2))
    assert summary["hausdorff"]["mean"] == pytest.approx(3) and summary["hausdorff"]["sd"] == 0
    lines = [line.split() for line in caplog.messages[-1].splitlines()]
    assert lines[0] == ["means", "cases", "Dice", "Hausdorff", "[mm]", "HD95", "[mm]", "ABD", "[mm]"]
    assert len([line for line in lines if "fold" in line]) == 6
    assert ["seed", "8,", "all", "cases", "7", "0.5900", "3.00", "3.00", "3.00"] in lines
    assert lines[-2] == ["mean", "of", "seeds", "0.5600", "3.00", "3.00", "3.00"]
    assert lines[-1] == ["sd", "of", "seeds", "0.0424", "0.00", "0.00", "0.00"]


def test_one_seed_has_no_spread(run_plan):
    dice = collect(run_plan())["dice"]
    assert (dice["mean"], dice["sd"], dice["by_seed"]) == (pytest.approx(0.53), 0.0, [pytest.approx(0.53)])


def test_seeds_that_are_whole_have_their_tables(run_plan, given, caplog):
    caplog.set_level(logging.INFO)
    run_plan()
    both = plan_cross_validation(recipe_name="vnet_promise12", folds=3, seeds=[1, 2], **given)
    assert collect(both) is None
    assert (given["output"] / "seed1" / "summary.json").is_file() and not (given["output"] / "summary.json").exists()
    assert "seed 2: no summary yet, since fold 0, 1, 2 of 3 are missing" in caplog.text


@pytest.mark.parametrize(("rows", "message"), [
    (lambda rows: rows[:-1], "0 times in .*fold1/out_of_fold/metrics.csv, expected once"),
    (lambda rows: [*rows, rows[0]], "2 times in .*fold1/out_of_fold/metrics.csv, expected once"),
    (lambda rows: [*rows, row_of("Case77")], "Case77: in .*fold1/out_of_fold/metrics.csv, expected none"),
])  # fmt: skip
def test_a_case_that_is_not_exactly_once_out_of_fold(run_plan, rows, message):
    plan = run_plan()
    own = [row_of(name[:-4]) for name in fold_split(CASES, 1, 3, 1)[1]]
    write_metrics_csv(plan.evaluation_folder(1, 1) / "metrics.csv", rows(own))
    with pytest.raises(DataError, match=message):
        collect(plan)
    assert not (plan.output / "seed1" / "metrics.csv").exists()


def test_a_table_that_is_none(run_plan):
    plan = run_plan()
    (plan.evaluation_folder(1, 2) / "metrics.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="seed 1, fold 2: .*columns a, b"):
        collect(plan)


def test_report(run_plan):
    plan = run_plan(checkpoint="best")
    collect(plan)
    text = (plan.output / "seed1" / "report.html").read_text(encoding="utf-8")
    assert "Cross-validation of vnet_promise12, 3 folds, seed 1" in text and "7 cases evaluated" in text
    assert "predicted by the best checkpoint" in text and "these figures are too good" in text
    assert text.count('<tr><th scope="row">Case') == 7


def test_several_classes(run_plan, caplog):
    caplog.set_level(logging.INFO)
    plan = run_plan()
    label = np.zeros((6, 6, 4), np.uint8)
    label[1:3, 1:3], label[3:5, 1:3] = 1, 2
    for fold in plan.folds:
        rows = [evaluate_case(name[:-4], np.minimum(label, 1 + (name != CASES[0])), label, (1, 1, 1), 3)
                for name in plan.fold_names(fold)[1]]
        write_metrics_csv(plan.evaluation_folder(1, fold) / "metrics.csv", rows)
    summary = collect(plan)
    # Case00 calls class 2 class 1: Dice 2 * 16 / (32 + 16) and 0.
    assert summary["dice"]["mean"] == 1
    assert summary["dice_1"]["mean"] == pytest.approx((2 / 3 + 6) / 7)
    assert summary["dice_2"]["mean"] == pytest.approx(6 / 7)
    assert summary["dice_mean"]["mean"] == pytest.approx((1 / 3 + 6) / 7)
    assert caplog.messages[-1].splitlines()[0].endswith("Mean Dice  Dice 1  Dice 2")
    assert list(table(plan.output / "seed1" / "metrics.csv")[0])[-4:] == ["dice_2", "hd95_2", "abd_2", "flag"]


def test_promise12_out_of_fold(run_plan):
    plan = run_plan()
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[1:5, 1:5, 1:5] = 1
    for fold in plan.folds:
        rows = [{"case_id": name[:-4], **region_metrics(mask, mask, Geometry(mask.shape)), "score": 1.0}
                for name in plan.fold_names(fold)[1]]
        write_rows(plan.evaluation_folder(1, fold) / "promise12.csv", rows, ["case_id", *KEYS, "score", "flag"])
    collect(plan)
    lines = table(plan.output / "seed1" / "promise12.csv")
    assert list(lines[0]) == ["case_id", "fold", *KEYS, "flag"] and len(lines) == 7
    summary = read(plan.output / "seed1" / "promise12.json")
    assert (summary["cases"], summary["dice_apex"]["mean"], summary["score"]) == (7, 1.0, None)
    other = run_plan(eval_changes=("scoring=none",))
    collect(other)
    assert not list(other.output.rglob("promise12*")), "tables of another evaluation"


def test_pictures_out_of_fold(given, processes, caplog):
    caplog.set_level("INFO")
    given["split_path"].write_text("".join(f"Case{number:02d}.png\n" for number in range(7)))
    plan = plan_cross_validation(recipe_name="unet2d_em", folds=3, changes=["scoring=patients"], **given)
    for fold in plan.folds:
        run_fold(plan, 1, fold)
    assert collect(plan)["dice"]["mean"] == pytest.approx(0.53)
    assert (plan.output / "seed1" / "dsc.png").read_bytes().startswith(b"\x89PNG")
    assert "Distances are pixels" in (plan.output / "seed1" / "report.html").read_text()
    assert "Hausdorff [px]" in caplog.text and "[mm]" not in caplog.text
    scored = plan_cross_validation(recipe_name="unet2d_em", folds=3, changes=["scoring=patients"],
                                   eval_changes=("scoring=rand",), **given)
    keys = ["rand_error", "rand_split", "rand_merge", *THRESHOLDS]
    for fold in plan.folds:
        run_fold(scored, 1, fold)
        rows = [{"case_id": name[:-4], **dict.fromkeys(keys, 0.25), "flag": ""} for name in scored.fold_names(fold)[1]]
        write_rows(scored.evaluation_folder(1, fold) / "rand.csv", rows, ["case_id", *keys, "flag"])
    collect(scored)
    assert [int(line["fold"]) for line in table(plan.output / "seed1" / "rand.csv")] == [0, 0, 0, 1, 1, 2, 2]
    assert not (plan.output / "seed1" / "dsc.png").exists(), "a chart of another evaluation"


def test_an_evaluation_by_hand_changes_nothing(run_plan):
    """`eval.py` without `--output_dir` writes into the run folder of its checkpoint."""
    plan = run_plan()
    names = plan.fold_names(1)[1]
    write_metrics_csv(plan.fold_folder(1, 1) / "metrics.csv", [row_of(name[:-4], bonus=0.3) for name in names])
    assert collect(plan)["dice"]["mean"] == pytest.approx(0.53)
