"""Bins: what a program without Python is given, and its answers scored as the network's own."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import eval as eval_script
import postprocess as postprocess_script
import preprocess as preprocess_script
from src.checkpoint import Checkpoint
from src.data.data_manager import DataManager
from src.data.split import write_split
from src.errors import DataError, UserError
from src.inference.bins import check_one_block, evaluate_results, read_case_list, recipe_of_bundle, write_bins
from src.inference.bundle import write_checksums
from src.inference.evaluate import load_native
from src.inference.golden import SAMPLE_DATA
from src.inference.output import OutputFolders, evaluate_split
from src.overrides import load_recipe
from tests.inference.helpers import FunctionPredictor, bright, bright_case, bright_halves

RECIPE = "vnet_promise12"
RADII = {"Case01": (8, 9, 10), "Case02": (6, 7, 8), "Case03": (9, 6, 8)}
SIZE = 32**3

# Stands in for the C++ program: the same folders, through the bundle's ONNX.
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime

model, source, target = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
for path in sorted(Path(source).glob("*.bin")):
    (answer,) = session.run(None, {given.name: np.fromfile(path, "<f4").reshape(given.shape)})
    answer.astype("<f4").tofile(Path(target, path.stem + "_0.bin"))
"""


@pytest.fixture
def recipe():
    return load_recipe(RECIPE, overrides=["VolSize=[32,32,32]", "dstRes=[1.5,1.5,1.5]"])


@pytest.fixture
def cases(tmp_path):
    """Three bright ellipsoids in tmp_path/data, and their split."""
    written = [bright_case(tmp_path / "data", name, radii) for name, radii in RADII.items()]
    write_split(tmp_path / "split.csv", [case.image_path.name for case in written])
    return written


@pytest.fixture
def bins(cases, recipe, tmp_path):
    return write_bins(recipe, RECIPE, tmp_path / "data", tmp_path / "split.csv", tmp_path / "bins")


def answer(bins, folder: Path, predictor: FunctionPredictor) -> Path:
    """Do what the program does, by `predictor`; return the folder of the answers."""
    folder.mkdir()
    for path in sorted(bins.folder.glob("*.bin")):
        probability = predictor.predict_block(np.fromfile(path, "<f4").reshape(bins.recipe["VolSize"]))
        probability.astype("<f4").tofile(folder / f"{path.stem}_0.bin")
    return folder


def score(tmp_path: Path, name: str = "scored"):
    return evaluate_results(tmp_path / "data", tmp_path / "split.csv", tmp_path / "answers", tmp_path / "bins",
                            tmp_path / name)


def test_a_bin_is_the_networks_input(bins, cases, recipe):
    for case in cases:
        path = bins.folder / f"{case.case_id}.bin"
        assert path.stat().st_size == 4 * SIZE
        block = load_native(case, DataManager.from_config(recipe)).block_image
        assert path.read_bytes() == block.astype("<f4").tobytes(order="C")


def test_the_list_says_what_the_bins_are(bins, cases):
    assert sorted(path.name for path in bins.folder.iterdir()) == ["Case01.bin", "Case02.bin", "Case03.bin",
                                                                   "cases.json"]
    content = json.loads((bins.folder / "cases.json").read_text())
    assert content["input"] == {"shape": [1, 1, 32, 32, 32], "layout": "NCXYZ", "dtype": "float32",
                                "byte_order": "little"}
    assert content["output"]["shape"] == [1, 32, 32, 32]
    assert (content["recipe_name"], content["recipe"]["dstRes"]) == (RECIPE, [1.5, 1.5, 1.5])
    assert [entry["case_id"] for entry in content["cases"]] == list(RADII)
    first = content["cases"][0]
    assert first["source"] == str(cases[0].image_path)
    assert first["sha256"] == hashlib.sha256((bins.folder / first["file"]).read_bytes()).hexdigest()
    assert read_case_list(bins.folder) == bins


def test_answers_score_as_the_network_does(bins, recipe, tmp_path, caplog):
    caplog.set_level("INFO")
    answer(bins, tmp_path / "answers", bright())
    rows = score(tmp_path)
    text = caplog.text
    folders = OutputFolders(tmp_path / "expected", tmp_path / "expected" / recipe.dirPredictionImage)
    network = Checkpoint(Path("best.ckpt"), {})
    expected = evaluate_split(bright(), recipe, network, tmp_path / "data", tmp_path / "split.csv", folders)
    assert rows == expected
    assert min(row["dice"] for row in rows) > 0.9  # the ellipsoids are found
    assert f"avg_dice: {np.mean([row['dice'] for row in rows]):.4f}" in text
    assert "avg_Hausdorff_distance: " in text
    found, wanted = ({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*")
                      if path.is_file() and path.name != "report.html"} for name in ("scored", "expected"))
    assert found == wanted
    assert Path("results/prediction/Case02_test.mhd") in found
    assert "Evaluation of answers" in (tmp_path / "scored" / "report.html").read_text()


def test_answers_of_three_classes(tmp_path):
    recipe = load_recipe("vnet_hippocampus", overrides=["VolSize=[32,32,32]", "dstRes=[1.5,1.5,1.5]", "patches=false",
                                                        "task=promise12"])
    bright_case(tmp_path / "data", "Case01", halves=True)
    write_split(tmp_path / "split.csv", ["Case01.mhd"])
    bins = write_bins(recipe, "vnet_hippocampus", tmp_path / "data", tmp_path / "split.csv", tmp_path / "bins")
    assert bins.output_shape == (1, 3, 32, 32, 32)
    answers = answer(bins, tmp_path / "answers", bright_halves())
    assert (answers / "Case01_0.bin").stat().st_size == 3 * 4 * SIZE
    (row,) = score(tmp_path)
    assert row["dice_mean"] > 0.85


def test_all_bad_answers_are_listed_at_once(bins, tmp_path):
    for number in range(4, 7):
        bright_case(tmp_path / "data", f"Case0{number}")
    write_split(tmp_path / "split.csv", [f"Case0{number}.mhd" for number in range(1, 7)])
    write_bins(bins.recipe, RECIPE, tmp_path / "data", tmp_path / "split.csv", tmp_path / "bins")
    answers = answer(bins, tmp_path / "answers", bright())
    bright_case(tmp_path / "data", "Case07")
    write_split(tmp_path / "split.csv", [f"Case0{number}.mhd" for number in range(1, 8)])
    (answers / "Case01_0.bin").unlink()
    (answers / "Case02_0.bin").write_bytes(bytes(8))
    values = np.zeros(SIZE, "<f4")
    values[5] = np.nan
    values.tofile(answers / "Case03_0.bin")
    np.full(SIZE, -3.5, "<f4").tofile(answers / "Case04_0.bin")
    (bins.folder / "Case05.bin").write_bytes(bytes(4 * SIZE))
    (bins.folder / "Case06.bin").unlink()
    with pytest.raises(DataError) as caught:
        score(tmp_path)
    assert [problem.split(";")[0].replace(str(tmp_path) + "/", "") for problem in caught.value.problems] == [
        "Case01: the answer answers/Case01_0.bin is missing",
        "Case02: the answer answers/Case02_0.bin has 8 bytes, expected 131072 (float32 of 1 x 32 x 32 x 32)",
        "Case03: the answer answers/Case03_0.bin has values from nan to nan, expected probabilities from 0 to 1",
        "Case04: the answer answers/Case04_0.bin has values from -3.5 to -3.5, expected probabilities from 0 to 1",
        "Case05: bins/Case05.bin is changed",
        "Case06: bins/Case06.bin is missing",
        "Case07: not in bins/cases.json"]
    assert not (tmp_path / "scored").exists()


def test_images_that_changed_since_are_refused(bins, tmp_path):
    answer(bins, tmp_path / "answers", bright())
    bright_case(tmp_path / "data", "Case02", (9, 9, 9))
    with pytest.raises(UserError, match=r"Case02: its preprocessed image differs by .* from .*Case02.bin, expected at "
                                        r"most 0.0001, so .*Case02.mhd or the program has changed since"):
        score(tmp_path)


def test_a_part_of_the_cases_can_be_scored_and_the_rest_is_named(bins, tmp_path, caplog):
    answer(bins, tmp_path / "answers", bright())
    write_split(tmp_path / "split.csv", ["Case03.mhd", "Case02.mhd"])
    assert [row["case_id"] for row in score(tmp_path)] == ["Case03", "Case02"]
    assert "bins that are not of this split, and so not scored: Case01" in caplog.text


@pytest.mark.parametrize(("name", "changes", "message"), [
    (RECIPE, ["patches=true"], "has patches=true"),
    (RECIPE, ["tta=xy"], "has tta=xy"),
    (RECIPE, ["zoom_ml=12.5"], "has zoom_ml=12.5, further looks"),
    ("unet2d_em", [], "has pictures"),
    ("unet3d_brain", [], "has volumes of several channels")])
def test_what_is_not_one_block_a_case_is_refused(tmp_path, name, changes, message):
    with pytest.raises(UserError, match=f"recipe {name}: {message}.* one block of one channel a case.*predict.py"):
        write_bins(load_recipe(name, overrides=changes), name, tmp_path, tmp_path / "x.csv", tmp_path / "bins")
    assert list(tmp_path.iterdir()) == []


def test_the_bundle_says_how_to_preprocess(bundle, tmp_path):
    recipe, name, model = recipe_of_bundle(bundle.folder)
    assert (name, recipe["VolSize"], recipe["dstRes"]) == (RECIPE, [32, 32, 32], [1.5, 1.5, 1.5])
    assert model == {"bundle": "vnet_bundle", "checkpoint": "checkpoint_vnet-7_3.ckpt", "epoch": 7}
    check_one_block(recipe, "")

    def changed(change) -> Path:
        folder = Path(shutil.copytree(bundle.folder, tmp_path / "copied", dirs_exist_ok=True))
        content = json.loads((bundle.folder / "recipe.json").read_text())
        change(content)
        (folder / "recipe.json").write_text(json.dumps(content))
        write_checksums(folder)
        return folder

    def two_cases(content):
        content["models"]["MINDIR"]["input"]["shape"][0] = 2

    with pytest.raises(UserError, match="its MINDIR takes 2 cases at once, expected 1; .*--batch_size 1"):
        recipe_of_bundle(changed(two_cases))
    with pytest.raises(UserError, match="copied: has tta=x"):
        recipe_of_bundle(changed(lambda content: content["postprocessing"].update(mirrors="x")))
    with pytest.raises(UserError, match="copied: has patches=true"):
        recipe_of_bundle(changed(lambda content: content["recipe"].update(patches=True)))


def test_the_folder_is_replaced_whole(bins, tmp_path):
    write_split(tmp_path / "split.csv", ["Case02.mhd"])
    write_bins(bins.recipe, RECIPE, tmp_path / "data", tmp_path / "split.csv", bins.folder)
    assert sorted(path.name for path in bins.folder.iterdir()) == ["Case02.bin", "cases.json"]


def test_bad_data_is_listed_and_keeps_the_earlier_bins(bins, tmp_path):
    before = {path.name: path.read_bytes() for path in bins.folder.iterdir()}
    (tmp_path / "data" / "img" / "Case01.zraw").write_bytes(b"short")
    (tmp_path / "data" / "gt" / "Case02_segmentation.mhd").unlink()
    with pytest.raises(DataError) as caught:
        write_bins(bins.recipe, RECIPE, tmp_path / "data", tmp_path / "split.csv", bins.folder)
    assert [problem[:7] for problem in caught.value.problems] == ["Case02:", "Case01:"]
    assert {path.name: path.read_bytes() for path in bins.folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bins", "data", "split.csv"]


def test_other_folders_are_left_alone(bins, tmp_path, monkeypatch):
    def write(output: Path):
        write_bins(bins.recipe, RECIPE, tmp_path / "data", tmp_path / "split.csv", output)

    (bins.folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="bins: is there and is no folder of bins, .* choose another --output_dir"):
        write(bins.folder)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="link: is there and is no folder of bins"):
        write(tmp_path / "link")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for output in (".", "../here", ".."):
        with pytest.raises(UserError, match="holds the present folder"):
            write(Path(output))
    assert (bins.folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("text", "message"), [
    (None, "cannot be read .No such file or directory.; run preprocess.py"),
    ("{", "was changed or is of another program"),
    ("[]", "was changed or is of another program"),
    ('{"format": "vnet-bins", "format_version": 2}', "'vnet-bins' version 2, expected 'vnet-bins' version 1")])
def test_lists_that_cannot_be_read(tmp_path, text, message):
    if text is not None:
        (tmp_path / "cases.json").write_text(text)
    with pytest.raises(UserError, match=f"cases.json: .*{message}"):
        read_case_list(tmp_path)


def test_programs_answers_score_as_eval_of_the_checkpoint(bundle, checkpoint_path, tmp_path, capsys):
    split = tmp_path / "two cases.csv"
    write_split(split, ["Case25.mhd", "Case24.mhd"])
    data = ["--data_path", str(SAMPLE_DATA)]
    bins, answers, out = (str(tmp_path / name) for name in ("bins é", "answers", "out"))
    arguments = [*data, "--split_file_path", str(split)]
    assert preprocess_script.main([*arguments, "--bundle", str(bundle.folder), "--output_dir", bins]) == 0
    Path(answers).mkdir()
    subprocess.run([sys.executable, "-c", PROGRAM, bundle.folder / "model.onnx", bins, answers], check=True, timeout=60)
    capsys.readouterr()
    assert postprocess_script.main([*arguments, "--result_path", answers, "--preprocess_dir", bins, "--output_dir",
                                    out]) == 0
    printed = capsys.readouterr().out.splitlines()[-2:]
    expected = tmp_path / "expected"
    assert eval_script.main([*data, "--ckpt_path", str(checkpoint_path), "--eval_split_file_path", str(split),
                             "--output_dir", str(expected)]) == 0
    wanted = capsys.readouterr().out.splitlines()[-2:]
    for line, other, name in zip(printed, wanted, ("avg_Hausdorff_distance:", "avg_dice:"), strict=True):
        assert line.split()[0] == other.split()[0] == name
        assert float(line.split()[1]) == pytest.approx(float(other.split()[1]), abs=1.1e-4)  # printed to 4 digits
    found, reference = (pd.read_csv(Path(folder) / "metrics.csv") for folder in (out, expected))
    assert list(found["case_id"]) == ["Case25", "Case24"]
    pd.testing.assert_frame_equal(found, reference, rtol=0, atol=1e-4)
    title = "Evaluation of answers, answers of checkpoint_vnet-7_3.ckpt, epoch 7"
    assert title in (Path(out) / "report.html").read_text()


def test_problems_end_in_one_message(tmp_path, capsys):
    given = ["--data_path", str(tmp_path), "--split_file_path", str(tmp_path / "no.csv")]
    assert preprocess_script.main([*given, "--set", "patches=true"]) == 2
    assert capsys.readouterr().err.startswith("error: recipe vnet_promise12: has patches=true")
    assert preprocess_script.main([*given, "--bundle", str(tmp_path / "none")]) == 2
    assert "none: no such folder" in capsys.readouterr().err
    assert postprocess_script.main([*given, "--preprocess_dir", str(tmp_path)]) == 2
    assert "cases.json: cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        preprocess_script.main([*given, "--bundle", "b", "--set", "tta=x"])
    assert "a bundle is sealed" in capsys.readouterr().err
