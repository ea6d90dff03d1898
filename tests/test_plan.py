"""plan.py on the sample data: what it writes is what train.py takes."""

import json
from pathlib import Path

import numpy as np
import pytest

import plan
from src.data import build_manager, prostate
from src.data.case_files import read_case
from src.data.check import check_cases
from src.data.split import read_split
from src.data.volume_files import write_volume
from src.overrides import load_recipe

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "data" / "sample"


@pytest.fixture(autouse=True)
def logging_as_the_tests_have_it(monkeypatch):
    monkeypatch.setattr(plan, "setup_logging", lambda: None)


def test_proposal_for_the_sample(tmp_path, capsys, caplog):
    output = tmp_path / "configs" / "my.json"
    assert plan.main(["--data_path", str(SAMPLE), "--split_file_path", str(SAMPLE / "val.csv"), "--memory_gib", "4",
                      "--output", str(output)]) == 0
    text = capsys.readouterr().out
    for part in ("cases        5", "orientation  ", "class 1      ", "dstRes ", "the median spacing",
                 f"python train.py --config {output}"):
        assert part in text
    recipe = load_recipe(config_file=output)
    assert (recipe.dstRes, recipe.classes, recipe.patches, recipe.task) == ([1, 1, 1], 2, False, "promise12")
    cases = prostate.find_cases(SAMPLE, read_split(SAMPLE / "val.csv"))
    caplog.clear()
    assert check_cases(cases, build_manager(recipe)) == []
    assert "outside the centre block" not in caplog.text
    beside = json.loads((tmp_path / "configs" / "my.fingerprint.json").read_text())
    assert [case["case_id"] for case in beside["cases"]] == [case.case_id for case in cases]
    _, label, _ = read_case(cases[0])
    assert beside["cases"][0]["class_voxels"] == [np.count_nonzero(label)]
    assert beside["proposal"] == json.loads(output.read_text()) and set(beside["reasons"]) == set(beside["proposal"])


def test_decathlon_folder_without_a_split(tmp_path, capsys):
    for number, name in enumerate(read_split(SAMPLE / "val.csv")[:2]):
        image, label, grid = read_case(prostate.find_cases(SAMPLE, [name])[0])
        label[:, : label.shape[1] // 2] *= 2
        write_volume(tmp_path / "imagesTr" / f"hippocampus_{number:03d}.nii.gz", image, grid)
        write_volume(tmp_path / "labelsTr" / f"hippocampus_{number:03d}.nii.gz", label.astype(np.float32), grid)
    assert plan.main(["--data_path", str(tmp_path), "--output", str(tmp_path / "p.json")]) == 0
    recipe = load_recipe(config_file=tmp_path / "p.json")
    assert (recipe.task, recipe.classes, recipe.scoring) == ("hippocampus", 3, "none")
    assert "class 2 " in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--memory_gib", "0"], "--memory_gib is 0, expected"), (["--output", "my.txt"], "ends in .json"),
    (["--split_file_path", "nowhere.csv"], "nowhere.csv cannot be read"),
    (["--task", "hippocampus"], "has no imagesTr/ in it"), (["--memory_gib", "1"], "memory of 1.0 GiB")])
def test_mistakes_end_with_one_message(capsys, arguments, message):
    split = [] if "--split_file_path" in arguments else ["--split_file_path", str(SAMPLE / "unseen.csv")]
    assert plan.main(["--data_path", str(SAMPLE), *split, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["promise12_128x128x32.json", "quickstart.json"])
def test_overrides_that_come_with_the_repository_can_be_used(name):
    path = ROOT / "configs" / name
    settings = json.loads(path.read_text(encoding="utf-8"))
    recipe = load_recipe(config_file=path)
    assert {key: recipe[key] for key in settings} == settings
