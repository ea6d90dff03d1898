import subprocess
import sys
from pathlib import Path

import pytest

from src.data.split import PROMISE12_VALIDATION, read_split
from tests.pictures import make_drive, make_em, make_lgg

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


def names_of(folder):
    return read_split(folder / "train.csv"), read_split(folder / "val.csv")


def test_patients_of_lgg(tmp_path):
    patients = make_lgg(tmp_path / "data", patients=13, slices=1, size=8)
    assert create(tmp_path / "out", 1, "--data_path", tmp_path / "data").returncode == 0
    train, validation = names_of(tmp_path / "out")
    assert (len(validation), sorted(train + validation)) == (2, patients)  # a sixth
    options = ("--task", "lgg", "--validation_share", 0.5)
    assert create(tmp_path / "out", 1, "--data_path", tmp_path / "data", *options).returncode == 0
    assert len(names_of(tmp_path / "out")[1]) == 6
    result = create(tmp_path / "out", 0, "--data_path", tmp_path / "data")
    assert result.returncode == 2 and "lgg has no fixed validation cases; give RANDOM 1" in result.stderr


def test_drives_own_division_or_a_drawn_one(tmp_path):
    training, test = make_drive(tmp_path / "data", training=4, test=2)
    assert create(tmp_path / "out", 0, "--data_path", tmp_path / "data").returncode == 0
    assert names_of(tmp_path / "out") == (training, test)
    assert create(tmp_path / "out", 1, "--data_path", tmp_path / "data" / "training").returncode == 0
    train, validation = names_of(tmp_path / "out")
    assert (len(validation), sorted(train + validation)) == (1, training)


@pytest.mark.parametrize("stack", [False, True])
def test_a_fifth_of_the_em_slices(tmp_path, stack):
    names = make_em(tmp_path / "data", slices=10, size=16, stack=stack)
    assert create(tmp_path / "out", 1, "--data_path", tmp_path / "data").returncode == 0
    train, validation = names_of(tmp_path / "out")
    assert (len(validation), sorted(train + validation)) == (2, names)
