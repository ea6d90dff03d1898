"""MSD's hippocampus: how its files lie, what its labels may look like, and what is refused by name."""

import numpy as np
import pytest

from src.data import build_manager, get_task, hippocampus
from src.data.case import Case
from src.data.check import check_cases
from src.data.geometry import Geometry
from src.data.volume_files import write_volume
from src.errors import DataError, UserError
from src.overrides import load_recipe

GRID = Geometry((35, 51, 35))
NAMES = [f"hippocampus_{number:03d}.nii.gz" for number in (1, 3, 4)]


@pytest.fixture
def folder(tmp_path):
    """Three cases, labels stored as integers and as floats, with macOS's files beside them."""
    for name, dtype in zip(NAMES, (np.uint8, np.float32, np.float64), strict=True):
        image = np.random.default_rng(0).integers(0, 500, GRID.size).astype(np.float32)
        label = np.zeros(GRID.size, dtype)
        label[10:20, 20:30, 15:20] = 1
        label[10:20, 30:35, 15:20] = 2
        write_volume(tmp_path / "imagesTr" / name, image, GRID)
        write_volume(tmp_path / "labelsTr" / name, label, GRID)
        for part in ("imagesTr", "labelsTr"):
            (tmp_path / part / f"._{name}").write_bytes(b"\0\5\x16\7")
    return tmp_path


def test_names_and_cases(folder):
    assert get_task("hippocampus") is hippocampus
    assert hippocampus.all_names(folder) == NAMES
    found = hippocampus.find_cases(folder, NAMES[1:])
    assert found[0] == Case("hippocampus_003", folder / "imagesTr" / NAMES[1], folder / "labelsTr" / NAMES[1])
    assert len(found) == 2


def test_labels_of_any_type_keep_their_classes(folder):
    manager = build_manager(load_recipe("vnet_hippocampus"))
    cases = hippocampus.find_cases(folder, NAMES)
    assert check_cases(cases, manager) == []
    for case in cases:
        sample = manager.load(case)
        assert sample.image.shape == sample.label.shape == (48, 64, 48)
        assert sample.label.dtype == np.uint8
        assert np.bincount(sample.label.ravel())[1:].tolist() == [10 * 10 * 5, 10 * 5 * 5]
        assert sample.foreground_ml == pytest.approx(0.75)


def test_problems_are_named(folder):
    (folder / "labelsTr" / NAMES[0]).unlink()
    (folder / "imagesTr" / NAMES[1]).unlink()
    names = [*NAMES, "hippocampus_009.nii", f"._{NAMES[0]}", "notes.txt", "hippocampus_004.nii"]
    found, problems = hippocampus.scan_cases(folder, names)
    assert [case.case_id for case in found] == ["hippocampus_001", "hippocampus_004"]
    for problem, part in zip(problems, (
            "hippocampus_001: ground truth", "hippocampus_003: image", "hippocampus_009: image",
            "hippocampus_009: ground truth", "._hippocampus_001.nii.gz: not a volume's file name",
            "notes.txt: not a volume's file name", "hippocampus_004: named twice"), strict=True):
        assert problem.startswith(part)
    assert len(hippocampus.scan_cases(folder, names, classes=2)[1]) == len(problems) + 1  # a label of three classes
    with pytest.raises(UserError, match="give the folder that holds imagesTr/ and labelsTr/"):
        hippocampus.all_names(folder / "labelsTr")
    assert [case.label_path is None for case in hippocampus.find_cases(folder, [NAMES[0]], need_labels=False)] == [True]


def test_a_label_may_have_the_other_suffix(folder):
    (folder / "labelsTr" / NAMES[0]).unlink()
    label = folder / "labelsTr" / "hippocampus_001.nii"
    write_volume(label, np.zeros(GRID.size, np.uint8), GRID)
    assert hippocampus.find_cases(folder, NAMES[:1])[0].label_path == label


def test_values_beyond_the_classes_are_refused(folder):
    manager = build_manager(load_recipe("vnet_hippocampus", overrides=["classes=2"]))
    with pytest.raises(DataError, match="hippocampus_001: .*label values are {0, 1, 2}, expected 0 and one foreground"):
        manager.load(hippocampus.find_cases(folder, NAMES[:1])[0])
