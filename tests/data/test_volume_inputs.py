"""Which files of a folder are volumes to predict."""

import pytest

from src.data import TASKS, Case
from src.data.volume_inputs import find_inputs
from src.errors import UserError


def test_volumes_by_their_file_names_and_labels_as_problems(tmp_path, caplog):
    for name in ("b.nii.gz", "a.mhd", "a.zraw", "a.nii", "b_segmentation.nii", "notes.txt", ".hidden.nii"):
        (tmp_path / name).touch()
    (tmp_path / "folder.nii").mkdir()
    cases, problems = find_inputs(tmp_path)
    assert cases == [Case(name, tmp_path / name) for name in ("a.mhd", "a.nii", "b.nii.gz")]
    (problem,) = problems
    assert problem.startswith(f"{tmp_path}/b_segmentation.nii: by its name (_segmentation) a label")
    assert caplog.messages == [f"not volumes, so left alone in {tmp_path}: notes.txt"]
    assert find_inputs(tmp_path / "b.nii.gz") == ([Case("b.nii.gz", tmp_path / "b.nii.gz")], [])


def test_nothing_to_predict(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        find_inputs(tmp_path / "none")
    with pytest.raises(UserError, match="no volume .* in this folder"):
        find_inputs(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"a.txt: no volume, expected one of .mhd"):
        find_inputs(tmp_path / "a.txt")


def test_every_task_finds_inputs():
    for module in TASKS.values():
        assert callable(module.find_inputs)
