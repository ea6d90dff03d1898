import numpy as np
import pytest

from src.data import TASKS, Case, prostate
from src.data.check import check_cases
from src.data.data_manager import DataManager
from src.data.geometry import Geometry
from src.errors import DataError, UserError
from tests.data.helpers import write_case


@pytest.fixture
def layout(tmp_path):
    """Make an empty-file copy of the PROMISE12 layout; Case02 has no ground truth."""
    for name in ("img/Case00.mhd", "img/Case00.raw", "img/Case01.nii.gz", "img/Case02.mhd", "img/.Case03.mhd",
                 "gt/Case00_segmentation.mhd", "gt/Case01_segmentation.nii.gz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def test_the_default_task():
    assert TASKS["promise12"] is prostate


def test_all_names(layout):
    assert prostate.all_names(layout) == ["Case00.mhd", "Case01.nii.gz", "Case02.mhd"]


def test_find_cases_in_the_given_order(layout):
    first, second = prostate.find_cases(layout, ["Case01.nii.gz", "Case00.mhd"])
    assert first == Case("Case01", layout / "img/Case01.nii.gz", layout / "gt/Case01_segmentation.nii.gz")
    assert second.case_id == "Case00"


def test_labels_are_optional_on_request(layout):
    found = prostate.find_cases(layout, ["Case00.mhd", "Case02.mhd"], need_labels=False)
    assert [case.label_path is None for case in found] == [False, True]


def test_all_missing_files_at_once(layout):
    with pytest.raises(DataError) as caught:
        prostate.find_cases(layout, ["Case00.mhd", "Case02.mhd", "Case07.mhd", "Case08", "Case00.mha"])
    problems = caught.value.problems
    assert len(problems) == 5
    assert problems[0].startswith("Case02: ground truth")
    assert problems[1].startswith("Case07: image")
    assert problems[2].startswith("Case07: ground truth")
    assert problems[3].startswith("Case08: not a volume's file name")
    assert problems[4].startswith("Case00: named twice, as Case00.mhd and Case00.mha")


def test_a_missing_half_does_not_hide_the_damaged_other(tmp_path):
    grid = Geometry((4, 4, 4))
    image = np.arange(64, dtype=np.int16).reshape(grid.size)
    cases = [write_case(tmp_path, f"Case{number:02d}", image, image % 3, grid) for number in range(4)]
    cases[0].label_path.unlink()
    cases[0].image_path.with_suffix(".zraw").unlink()
    cases[1].image_path.unlink()
    cases[2].image_path.unlink()
    write_case(tmp_path / "sound", "Case02", image, image > 9, grid).label_path.parent.rename(tmp_path / "sound_gt")
    for file in (tmp_path / "sound_gt").iterdir():
        file.replace(tmp_path / "gt" / file.name)
    names = [case.image_path.name for case in cases]

    found, problems = prostate.scan_cases(tmp_path, names, classes=2)
    assert found == [Case("Case00", cases[0].image_path, None), cases[3]]
    assert [problem.split(":")[0] for problem in problems] == ["Case00", "Case01", "Case01", "Case02"]
    for problem, part in zip(problems, ("ground truth", "image", "label values are {0, 1, 2}", "image"), strict=True):
        assert part in problem
    more = check_cases(found, DataManager((1, 1, 1), grid.size))
    assert [problem.split(":")[0] for problem in more] == ["Case00", "Case03"]
    assert "is missing" in more[0] and "label values" in more[1]
    assert len(prostate.scan_cases(tmp_path, names, classes=3)[1]) == 3
    with pytest.raises(DataError, match="3 problems"):
        prostate.find_cases(tmp_path, names)


def test_wrong_data_folder(layout):
    with pytest.raises(UserError, match="is not there"):
        prostate.all_names(layout / "nowhere")
    with pytest.raises(UserError, match="give the folder that holds img/ and gt/"):
        prostate.all_names(layout / "gt")
    (layout / "img").rename(layout / "gt" / "img")
    with pytest.raises(UserError, match=f"give {layout / 'gt'}$"):
        prostate.all_names(layout)
    (layout / "gt" / "img").rename(layout / "img")
    for path in (layout / "img").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no volume"):
        prostate.all_names(layout)
