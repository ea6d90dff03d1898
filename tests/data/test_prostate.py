import pytest

from src.data import TASKS, Case, prostate
from src.errors import DataError, UserError


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
