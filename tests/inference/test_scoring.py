"""Pictures from files to results: what each scoring writes, and that only the region counts."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.checkpoint import Checkpoint
from src.data import build_manager, get_task
from src.data.split import write_split
from src.inference.evaluate import ValidationSet, evaluate_cases, load_native
from src.inference.output import OutputFolders, evaluate_split
from src.inference.postprocess import Postprocess
from src.inference.scoring import SCORINGS, get_scoring
from src.overrides import load_recipe
from tests.inference.helpers import FunctionPredictor
from tests.pictures import make_drive, make_em, make_lgg

SMALL = ["image_size=[48,48]"]


def bright(threshold: float, channel: int = 0, sign: int = 1) -> FunctionPredictor:
    """Foreground where a channel of the block (C, X, Y, Z) is above a threshold, or with sign -1 below its negative."""
    return FunctionPredictor(lambda image: np.where(sign * image[channel] > threshold, 0.9, 0.2))


def evaluate(folder, recipe, names, predictor, results="out"):
    write_split(folder / "split.csv", names)
    folders = OutputFolders(folder / results, folder / results / "masks")
    return evaluate_split(predictor, recipe, Checkpoint(folder / "c.ckpt", {}), folder / "data", folder / "split.csv",
                          folders)


def files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_patients(tmp_path, caplog):
    caplog.set_level("INFO")
    names = make_lgg(tmp_path / "data", patients=2, slices=3, size=48)
    recipe = load_recipe("unet2d_lgg", overrides=SMALL)
    rows = evaluate(tmp_path, recipe, names, bright(1.5, channel=1))
    assert [row["case_id"] for row in rows] == names
    assert min(row["dice"] for row in rows) > 0.8  # the bright lesion in FLAIR
    expected = ["dsc.png", "metrics.csv", "report.html", "summary.json"]
    for name in names:
        expected += [f"predictions/{name}.gif", *(f"predictions/{name}-{k}.png" for k in (1, 2, 3)),
                     *(f"masks/{name}/{name}_{k}_mask.tif" for k in (1, 2, 3))]
    assert files(tmp_path / "out") == sorted(expected)
    mask = np.stack([np.asarray(Image.open(tmp_path / "out/masks" / names[0] / f"{names[0]}_{k}_mask.tif"))
                     for k in (1, 2, 3)])
    assert set(np.unique(mask)) == {0, 255}
    assert np.count_nonzero(mask) / 1000 == pytest.approx(rows[0]["volume_ml_prediction"])
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Distances are pixels" in report and "Predicted [1000 px]" in caplog.text
    for text in (report, caplog.text):  # pictures carry no scale
        assert not re.search(r"\b(mm|ml)\b|millimetre", text)


def test_only_the_field_of_view_counts(tmp_path):
    make_drive(tmp_path / "data", training=1, test=1)
    recipe = load_recipe("unet2d_drive", overrides=SMALL)
    manager = build_manager(recipe)
    cases = get_task("drive").find_cases(tmp_path / "data", ["01_test.tif"])
    loaded = load_native(cases[0], manager)
    assert loaded.region is not None and loaded.label is not None
    field, vessel = np.count_nonzero(loaded.region), np.count_nonzero(loaded.label)
    assert 0 < vessel < field < loaded.region.size

    everything = FunctionPredictor(lambda image: np.full(image.shape[1:], 0.75))
    seen = []
    (row,) = evaluate_cases(everything, manager, cases, lambda *details: seen.append(details),
                            Postprocess.from_recipe(recipe), scoring="pixels")
    np.testing.assert_array_equal(seen[0][2], loaded.region)  # the mask ends where the field does
    assert row["dice"] == pytest.approx(2 * vessel / (field + vessel))
    pixels = row["pixels"]
    assert pixels["accuracy"] == pixels["precision_vessel"] == pytest.approx(vessel / field)
    assert (pixels["sensitivity"], pixels["specificity"], pixels["auc"]) == (1, 0, 0.5)
    assert pixels["true_negatives"] + pixels["false_negatives"] == 0
    result = ValidationSet(manager, cases, postprocess=Postprocess.from_recipe(recipe)).run(everything)
    assert result.per_case == {"01_test": row["dice"]}


def test_pixels_and_what_takes_their_place(tmp_path, caplog):
    caplog.set_level("INFO")
    names, _ = make_drive(tmp_path / "data", training=2, test=1)
    rows = evaluate(tmp_path, load_recipe("unet2d_drive", overrides=SMALL), names, bright(1.0, sign=-1))
    assert min(row["dice"] for row in rows) > 0.6  # vessels are dark
    assert files(tmp_path / "out") == ["masks/21_training_test.png", "masks/22_training_test.png", "metrics.csv",
                                       "pixels.csv", "pixels.json", "pixels.png", "report.html", "summary.json"]
    table = pd.read_csv(tmp_path / "out" / "pixels.csv")
    assert table["dice"].tolist() == pytest.approx([row["dice"] for row in rows])
    assert table["auc"].min() > 0.8
    assert Image.open(tmp_path / "out" / "masks" / "21_training_test.png").size == (60, 64)
    assert "vessel" in caplog.text
    assert "pixels" not in rows[0]

    evaluate(tmp_path, load_recipe("unet2d_drive", overrides=[*SMALL, "scoring=none"]), names, bright(1.0, sign=-1))
    assert not list((tmp_path / "out").glob("pixels*")), "tables of another evaluation"


@pytest.mark.parametrize("stack", [False, True])
def test_rand(tmp_path, stack):
    names = make_em(tmp_path / "data", slices=2, stack=stack)
    rows = evaluate(tmp_path, load_recipe("unet2d_em", overrides=SMALL), names, bright(0.0))
    stem = "train-volume_" if stack else ""
    assert [row["case_id"] for row in rows] == [f"{stem}00", f"{stem}01"]
    assert min(row["dice"] for row in rows) > 0.95
    assert files(tmp_path / "out") == [f"masks/{stem}00_test.png", f"masks/{stem}01_test.png", "metrics.csv",
                                       "rand.csv", "rand.json", "report.html", "summary.json"]
    summary = json.loads((tmp_path / "out" / "rand.json").read_text())
    assert summary["cases"] == 2
    assert 0 <= summary["rand_error"]["mean"] < 0.2


def test_every_choice_of_the_recipe_is_known():
    assert set(SCORINGS) == {"promise12", "patients", "pixels", "rand"}
    assert get_scoring("none") is None
    assert get_scoring("rand") is SCORINGS["rand"]
    assert get_scoring("promise12", classes=3) is None
