"""What an evaluation writes and where, with predictors whose answer is known."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.checkpoint import Checkpoint
from src.data.split import write_split
from src.data.volume_files import read_volume
from src.errors import DataError, UserError
from src.inference.output import OutputFolders, evaluate_split, output_folders, require_output_dir
from src.metrics.promise12 import KEYS
from src.overrides import load_recipe
from tests.data.helpers import OBLIQUE
from tests.inference.helpers import GRID, FunctionPredictor, bright, bright_case, bright_halves, nothing

OVERRIDES = ["VolSize=[32,32,32]", "dstRes=[1.5,1.5,1.5]"]
RECIPE = load_recipe(overrides=OVERRIDES)


@pytest.fixture
def data(tmp_path):
    """Two cases, one of them oblique, and a run folder with a checkpoint's history."""
    oblique = type(GRID)(GRID.size, GRID.spacing, GRID.origin, OBLIQUE.direction)
    bright_case(tmp_path / "data", "Case00")
    bright_case(tmp_path / "data", "Case01", (5, 6, 7), oblique)
    write_split(tmp_path / "val.csv", ["Case00.mhd", "Case01.mhd"])
    (tmp_path / "run" / "ckpt").mkdir(parents=True)
    (tmp_path / "run" / "recipe.json").write_text("{}")
    history = {"epoch": [1, 2], "loss": [0.9, 0.5], "lr": [1e-3, 1e-4], "val_dice": [None, 0.5], "seconds": [1.0, 1.0]}
    pd.DataFrame(history).to_csv(tmp_path / "run" / "history.csv", index=False)
    return tmp_path


def evaluate(data: Path, predictor, save_predictions: bool = True, recipe=RECIPE, **state):
    checkpoint = Checkpoint(data / "run" / "ckpt" / "best.ckpt", {}, {"epoch": 2, **state})
    folders = output_folders(checkpoint.path, recipe)
    return evaluate_split(predictor, recipe, checkpoint, data / "data", data / "val.csv", folders, save_predictions)


def test_folders(data):
    in_run = data / "run" / "ckpt" / "best.ckpt"
    assert output_folders(in_run, RECIPE) == OutputFolders(data / "run", data / "run" / "results/prediction")
    elsewhere = OutputFolders(Path("results/infer"), Path("results/prediction"))
    assert output_folders(data / "x.ckpt", RECIPE) == elsewhere
    asked = OutputFolders(data / "o", data / "o" / "results/prediction")
    assert output_folders(in_run, RECIPE, data / "o") == asked


def test_several_checkpoints_need_an_output_folder(tmp_path):
    paths = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    with pytest.raises(UserError, match="found 2 checkpoints, .* say with --output_dir where the results go"):
        require_output_dir(paths, None)
    require_output_dir(paths, tmp_path)
    require_output_dir(paths[:1], None)


def test_everything_is_written(data, caplog):
    with caplog.at_level(logging.INFO):
        rows = evaluate(data, bright())
    run = data / "run"
    table = pd.read_csv(run / "metrics.csv")
    assert table["case_id"].tolist() == ["Case00", "Case01"]
    assert table["dice"].tolist() == pytest.approx([row["dice"] for row in rows])
    assert min(table["dice"]) > 0.9
    summary = json.loads((run / "summary.json").read_text())
    assert summary["dice"]["mean"] == pytest.approx(table["dice"].mean())
    report = (run / "report.html").read_text()
    assert "Evaluation of best.ckpt, epoch 2" in report
    assert "Learning curves" in report
    lines = [record.getMessage() for record in caplog.records]
    assert lines[-2:] == [f"avg_Hausdorff_distance: {table['hausdorff'].mean():.2f}",
                          f"avg_dice: {table['dice'].mean():.4f}"]
    assert any(line.startswith("case ") and "\nmean" in line for line in lines)


def test_masks_have_the_images_geometry(data):
    rows = evaluate(data, bright())
    for case_id, row in zip(("Case00", "Case01"), rows, strict=True):
        mask, grid = read_volume(data / "run" / "results" / "prediction" / f"{case_id}_test.mhd")
        _, expected = read_volume(data / "data" / "img" / f"{case_id}.mhd")
        assert grid.size == expected.size
        for name in ("spacing", "origin", "direction"):
            np.testing.assert_allclose(getattr(grid, name), getattr(expected, name), atol=1e-6)
        assert set(np.unique(mask)) == {0, 1}
        assert mask.sum() * expected.voxel_volume / 1000 == pytest.approx(row["volume_ml_prediction"])


def test_without_saving_there_are_no_masks(data):
    evaluate(data, nothing(), save_predictions=False)
    assert not (data / "run" / "results").exists()
    assert pd.read_csv(data / "run" / "metrics.csv")["flag"].tolist() == ["empty prediction"] * 2


def test_all_problems_come_before_any_result(data):
    for name in ("Case00", "Case01"):
        (data / "data" / "img" / f"{name}.zraw").write_bytes(b"damaged")
    predictor = bright()
    with pytest.raises(DataError) as caught:
        evaluate(data, predictor)
    assert len(caught.value.problems) == 2
    assert predictor.blocks == []
    assert not (data / "run" / "metrics.csv").exists()


def test_missing_and_damaged_files_are_listed_together(data):
    (data / "data" / "img" / "Case00.zraw").write_bytes(b"damaged")
    write_split(data / "val.csv", ["Case00.mhd", "Case01.mhd", "Case77.mhd"])
    (data / "data" / "gt" / "Case01_segmentation.mhd").unlink()
    with pytest.raises(DataError) as caught:
        evaluate(data, nothing())
    problems = caught.value.problems
    for case_id, text in (("Case01", "is missing"), ("Case77", "is missing"), ("Case00", "Case00.")):
        assert any(problem.startswith(f"{case_id}: ") and text in problem for problem in problems), problems


def test_cases_that_were_trained_on_are_named(data, caplog):
    evaluate(data, nothing(), save_predictions=False, train_names=["Case01.mhd", "Case07.mhd"])
    assert "1 of 2 cases are named like training cases (Case01.mhd)" in caplog.text
    assert "named like training cases" in (data / "run" / "report.html").read_text()


def test_promise12_tables_come_with_the_scoring(data, caplog):
    with caplog.at_level(logging.INFO):
        rows = evaluate(data, bright(), save_predictions=False)
    table = pd.read_csv(data / "run" / "promise12.csv")
    assert table["case_id"].tolist() == ["Case00", "Case01"]
    assert set(KEYS) <= set(table)
    assert table["dice_whole"].tolist() == pytest.approx([row["dice"] for row in rows], abs=1e-12)
    assert json.loads((data / "run" / "promise12.json").read_text())["cases"] == 2
    assert sum("PROMISE12" in record.getMessage() for record in caplog.records) == 1
    assert "promise12" not in rows[0]

    write_split(data / "val.csv", ["Case00.mhd"])
    evaluate(data, bright(), recipe=load_recipe(overrides=[*OVERRIDES, "scoring=none"]), save_predictions=False)
    assert not list((data / "run").glob("promise12*")), "tables of another evaluation"


def test_largest_component_of_the_recipe(data):
    def two_boxes(image):
        answer = np.zeros_like(image)
        answer[12:20, 12:20, 12:20] = answer[8:10, 8:10, 8:10] = 1
        return answer

    write_split(data / "val.csv", ["Case00.mhd"])
    volumes = [evaluate(data, FunctionPredictor(two_boxes), recipe=load_recipe(overrides=[*OVERRIDES, *more]),
                        save_predictions=False)[0]["volume_ml_prediction"]
               for more in ([], ["largest_component=false"])]
    # 8 x 8 x 8 voxels of 1.5 mm are 1.728 ml, 2 x 2 x 2 are 0.027 ml; the image's own grid is another.
    assert volumes[0] == pytest.approx(1.728, rel=0.1)
    assert 0.01 < volumes[1] - volumes[0] < 0.05


def test_three_classes_are_written(data, caplog):
    for name, radii in (("Case00", (8, 9, 10)), ("Case01", (5, 6, 7))):
        bright_case(data / "data", name, radii, halves=True)
    recipe = load_recipe("vnet_hippocampus", overrides=[*OVERRIDES, "task=promise12", "scoring=promise12"])
    with caplog.at_level(logging.INFO):
        rows = evaluate(data, bright_halves(), recipe=recipe)
    table = pd.read_csv(data / "run" / "metrics.csv")
    assert table["dice_mean"].tolist() == pytest.approx([row["dice_mean"] for row in rows])
    assert f"avg_dice_of_classes: {table['dice_mean'].mean():.4f}" in caplog.text
    mask, _ = read_volume(data / "run" / "results" / "prediction" / "Case00_test.mhd")
    assert set(np.unique(mask)) == {0, 1, 2}
    assert not list((data / "run").glob("promise12*"))  # the challenge knows one organ


def test_ensemble_names_its_members(data, caplog):
    members = [Checkpoint(data / "run" / "ckpt" / "best.ckpt", {}, {"epoch": 2, "train_names": ["Case01.mhd"]}),
               Checkpoint(data / "other.ckpt", {}, {"train_names": ["Case00.mhd"]})]
    folders = output_folders(members[0].path, RECIPE, data / "out")
    evaluate_split(nothing(), RECIPE, members, data / "data", data / "val.csv", folders, save_predictions=False)
    report = (data / "out" / "report.html").read_text()
    assert "Evaluation of an ensemble of 2: run/best.ckpt, other.ckpt" in report
    assert "Learning curves" not in report
    assert "2 of 2 cases are named like training cases (Case00.mhd, Case01.mhd)" in caplog.text


def test_output_folder_that_is_a_file(data):
    (data / "file").write_text("x")
    checkpoint = Checkpoint(data / "c.ckpt", {})
    folders = output_folders(checkpoint.path, RECIPE, data / "file")
    with pytest.raises(UserError, match="output folder .*file: cannot be made a folder"):
        evaluate_split(nothing(), RECIPE, checkpoint, data / "data", data / "val.csv", folders)
