import subprocess
import sys
from pathlib import Path

import pytest

from src.data.split import PROMISE12_VALIDATION, read_split

REPO = Path(__file__).parents[2]


def create(*arguments):
    command = [sys.executable, REPO / "scripts" / "create_csv.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_fixed_split_without_data(tmp_path):
    assert create(tmp_path / "new folder", 0).returncode == 0
    validation = read_split(tmp_path / "new folder" / "val.csv")
    assert validation == [f"Case{number}.mhd" for number in PROMISE12_VALIDATION]
    assert len(read_split(tmp_path / "new folder" / "train.csv")) == 40


@pytest.mark.parametrize("options", [(), ("--data_path", REPO / "data" / "sample"), ("--fold", 2, "--folds", 4),
                                     ("--validation_share", 0.3)])
def test_drawn_split(tmp_path, options):
    count = 30 if "--data_path" in options else 50
    expected = {(): 10, "--data_path": 6, "--fold": 12, "--validation_share": 15}[options[0] if options else ()]
    assert create(tmp_path / "a", 1, *options).returncode == 0
    train, validation = read_split(tmp_path / "a" / "train.csv"), read_split(tmp_path / "a" / "val.csv")
    assert len(validation) == expected
    assert sorted(train + validation) == [f"Case{number:02d}.mhd" for number in range(count)]
    create(tmp_path / "b", 1, *options, "--seed", 2)
    assert read_split(tmp_path / "b" / "val.csv") != validation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, "--data_path", "nowhere"), "data folder nowhere is not there"),
     ((1, "--fold", 9), "fold 9 of 5"),
     ((0, "--fold", 1), "give RANDOM 1"),
     ((1, "--folds", 3), "--folds needs --fold"),
     ((0, "--validation_share", 0.1), "give RANDOM 1 with it, and no --fold"),
     ((1, "--validation_share", 1), "--validation_share is 1, expected a number between 0 and 1"),
     ((1, "--task", "hippocampus"), "--task needs --data_path"),
     ((1, "--data_path", REPO / "data" / "sample", "--task", "hippocampus"), "has no imagesTr/ in it")],
)
def test_mistakes_end_with_one_message(tmp_path, arguments, message):
    result = create(tmp_path, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [(), ("--task", "hippocampus")])
def test_split_of_a_decathlon_folder(tmp_path, options):
    names = [f"hippocampus_{number:03d}.nii.gz" for number in range(10)]
    (tmp_path / "data" / "imagesTr").mkdir(parents=True)
    for name in [*names, "._hippocampus_001.nii.gz"]:
        (tmp_path / "data" / "imagesTr" / name).touch()
    assert create(tmp_path / "out", 1, "--data_path", tmp_path / "data", *options).returncode == 0
    train, validation = read_split(tmp_path / "out" / "train.csv"), read_split(tmp_path / "out" / "val.csv")
    assert (len(train), sorted(train + validation)) == (8, names)
