import logging

import numpy as np
import pytest

from src.data import prostate
from src.data.check import check_cases, checked_cases
from src.data.data_manager import DataManager
from src.data.geometry import Geometry
from src.data.volume_files import write_volume
from src.errors import DataError
from tests.data.helpers import write_case

GRID = Geometry((8, 8, 8), (0.5, 0.5, 2))
MANAGER = DataManager(GRID.spacing, (8, 8, 8))


@pytest.fixture
def make_case(tmp_path):
    """Write a sound case: noise, and a label of 2 x 2 x 2 voxels in the middle."""

    def make(case_id):
        label = np.zeros(GRID.size, np.uint8)
        label[3:5, 3:5, 3:5] = 1
        image = np.random.default_rng(0).integers(0, 100, GRID.size).astype(np.int16)
        return write_case(tmp_path, case_id, image, label, GRID)

    return make


def test_one_line_per_sound_case(make_case, caplog):
    caplog.set_level(logging.INFO)
    assert check_cases([make_case("Case00"), make_case("Case01")], MANAGER) == []
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == ("Case00: 8 x 8 x 8 voxels of 0.5 x 0.5 x 2 mm, foreground 0.00 ml, "
                        "0.0 % of it outside the block")
    assert len(lines) == 2


def test_every_problem_of_every_case_is_listed(make_case):
    cases = [make_case(f"Case{number:02d}") for number in range(5)]
    cases[0].image_path.with_suffix(".zraw").unlink()
    voxels = cases[1].image_path.with_suffix(".zraw")
    voxels.write_bytes(voxels.read_bytes()[:-4] + b"\0\0\0\0")
    cases[2].label_path.unlink()
    write_volume(cases[3].image_path, np.zeros(GRID.size, np.int16), GRID)
    problems = check_cases(cases, MANAGER)
    assert [problem.split(":")[0] for problem in problems] == ["Case00", "Case01", "Case02", "Case03"]
    for problem, expected in zip(problems, ("missing", "damaged zlib", "no such file", "constant"), strict=True):
        assert expected in problem


def test_split_files_and_cases_are_listed_together(make_case):
    good, damaged = make_case("Case00"), make_case("Case01")
    data_path = good.image_path.parent.parent
    assert checked_cases(prostate, data_path, ["Case00.mhd", "Case01.mhd"], MANAGER) == [good, damaged]
    damaged.image_path.with_suffix(".zraw").unlink()
    with pytest.raises(DataError) as caught:
        checked_cases(prostate, data_path, ["Case00.mhd", "Case01.mhd", "Case02.mhd"], MANAGER, ["train.csv: empty"])
    first, missing_case, *_, missing_voxels = caught.value.problems
    assert first == "train.csv: empty"
    assert "Case02" in missing_case
    assert "Case01" in missing_voxels


def test_cropped_and_empty_labels_are_warnings(make_case, caplog):
    case = make_case("Case00")
    assert check_cases([case], DataManager(GRID.spacing, (8, 8, 1))) == []
    assert "50.0 % of the foreground lies outside" in caplog.text
    write_volume(case.label_path, np.zeros(GRID.size, np.uint8), GRID)
    assert check_cases([case], MANAGER) == []
    assert "the label is empty" in caplog.text
