"""DRIVE's layout, its grey, its field of view and its own division."""

import numpy as np
import pytest
from PIL import Image

from src.data import drive
from src.data.case import Case
from src.data.check import checked_cases
from src.data.drive import DriveManager, estimate_field
from src.errors import DataError, UserError
from tests.pictures import make_drive


@pytest.fixture
def folder(tmp_path):
    make_drive(tmp_path)
    return tmp_path


def test_files_of_a_case(folder):
    assert drive.all_names(folder) == ["01_test.tif", "02_test.tif", "21_training.tif", "22_training.tif",
                                       "23_training.tif"]
    assert drive.all_names(folder / "training") == drive.all_names(folder)[2:]
    test, training = drive.find_cases(folder, ["01_test.tif", "21_training.tif"])
    part = folder / "training"
    assert training == Case("21_training", part / "images/21_training.tif", part / "1st_manual/21_manual1.gif",
                            part / "mask/21_training_mask.gif")
    assert test.label_path == folder / "test/1st_manual/01_manual1.gif"
    assert drive.find_cases(part, ["21_training.tif"]) == [training]
    assert drive.own_division(folder) == (drive.all_names(folder)[2:], drive.all_names(folder)[:2])


def test_test_pictures_without_ground_truth(folder):
    for path in (folder / "test/1st_manual").iterdir():
        path.unlink()
    (folder / "test/1st_manual").rmdir()
    assert drive.all_names(folder) == ["21_training.tif", "22_training.tif", "23_training.tif"]
    with pytest.raises(UserError, match="test has no 1st_manual/, which DRIVE's own division needs"):
        drive.own_division(folder)
    with pytest.raises(UserError, match="has no 1st_manual/ in"):
        drive.all_names(folder / "test")


def test_folders_that_are_none(folder):
    make_drive(folder / "downloads" / "DRIVE")
    with pytest.raises(UserError, match=f"give {folder}/downloads/DRIVE$"):
        drive.all_names(folder / "downloads")
    with pytest.raises(UserError, match="is not there; give the folder that holds training/ and test/"):
        drive.all_names(folder / "nowhere")


def test_normalised_inside_the_field_of_view(folder):
    """Against float64, in a size where nothing is resized."""
    manager = DriveManager((60, 64))
    (case,) = drive.find_cases(folder, ["22_training.tif"])
    shown, label, native, block, grid = manager.read_preprocessed(case)
    with Image.open(case.image_path) as picture, Image.open(case.region_path) as field:
        colour = np.array(picture, np.float64)
        inside = np.array(field.convert("L")) > 0
    grey = colour @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(shown[..., 0], grey.T, rtol=1e-6)
    region = manager.region(case)
    np.testing.assert_array_equal(region[..., 0], inside.T)
    expected = np.where(inside, (grey - grey[inside].mean()) / grey[inside].std(), 0)
    np.testing.assert_allclose(block[0, ..., 0], expected.T, atol=1e-4)
    assert grid == native and set(np.unique(label)) == {0, 1} and not label[~region].any()


def test_pasting_back_takes_the_nearest_pixel(folder):
    manager = DriveManager((120, 128))  # twice the size
    (case,) = drive.find_cases(folder, ["22_training.tif"])
    sample = manager.load(case)
    probability = np.random.default_rng(0).random((120, 128, 1)).astype(np.float32)
    back = manager.paste_back(probability, sample.block, sample.native)
    assert back.shape == (60, 64, 1) and set(back.ravel()) <= set(probability.ravel())
    np.testing.assert_array_equal(manager.paste_back(sample.label, sample.block, sample.native),
                                  manager.read_preprocessed(case)[1])


def test_an_estimated_field_of_view(folder):
    for case in drive.find_cases(folder, drive.all_names(folder)):
        shown = DriveManager((64, 64)).read_preprocessed(case)[0]
        field = DriveManager((64, 64)).region(case)
        np.testing.assert_array_equal(estimate_field(shown[..., 0]), field[..., 0])
    assert estimate_field(np.zeros((4, 4), np.float32)).all()


def test_inputs_with_and_without_field_of_view(folder, caplog, tmp_path):
    cases, problems = drive.find_inputs(folder)
    assert [case.case_id for case in cases] == ["21_training", "22_training", "23_training", "01_test", "02_test"]
    assert problems == [] and not caplog.records
    assert all(case.label_path is None and case.region_path.is_file() for case in cases)
    assert drive.find_inputs(folder / "test" / "images")[0] == cases[3:]
    alone = folder / "alone"
    alone.mkdir()
    (folder / "test/images/01_test.tif").rename(alone / "eye.tif")
    (folder / "test/mask/01_test_mask.gif").rename(alone / "eye_mask.gif")
    (case,), _ = drive.find_inputs(alone)
    assert case == Case("eye", alone / "eye.tif")
    assert ["eye_mask.gif" in record.getMessage() for record in caplog.records] == [True, False]
    assert "no field of view" in caplog.records[1].getMessage()
    assert DriveManager((64, 64)).region(case).any()
    Image.open(alone / "eye.tif").save(alone / "eye.png")
    cases, problems = drive.find_inputs(alone)
    assert len(cases) == 1 and "eye.tif: its mask would have the name of that of" in problems[0]
    with pytest.raises(UserError, match="a label or mask"):
        drive.find_inputs(alone / "eye_mask.gif")
    with pytest.raises(UserError, match="no picture"):
        drive.find_inputs(tmp_path / "training" / "1st_manual")


def test_all_damage_is_listed_at_once(folder):
    part = folder / "training"
    (part / "1st_manual/21_manual1.gif").unlink()
    (part / "mask/22_training_mask.gif").unlink()
    Image.fromarray(np.zeros((64, 59), np.uint8)).save(part / "1st_manual/23_manual1.gif")
    Image.fromarray(np.zeros((64, 60), np.uint8)).save(part / "mask/23_training_mask.gif")
    (folder / "test/images/01_test.tif").write_bytes(b"damaged")
    Image.fromarray(np.full((64, 60), 9, np.uint8)).save(folder / "test/images/02_test.tif")
    names = [*drive.all_names(folder), "31_training.tif", "03_test.tif", "21_training.tif", "notes.txt"]
    with pytest.raises(DataError) as caught:
        checked_cases(drive, folder, names, DriveManager((64, 64)))
    expected = [("21_training: ground truth", "21_manual1.gif is missing"), ("22_training: field of view", "missing"),
                ("23_training: ", "the mask has 59 x 64 pixels, its picture 60 x 64"),
                ("23_training: ", "the field of view is empty"), ("01_test: ", "cannot be read as a picture"),
                ("02_test: ", "no contrast"), ("31_training: image", "missing"), ("03_test: image", "missing"),
                ("31_training: ground truth", "missing"), ("03_test: ground truth", "test/1st_manual/03_manual1.gif"),
                ("21_training: named twice", ""), ("notes.txt: not a picture's file name", "")]
    for start, words in expected:
        assert any(problem.startswith(start) and words in problem for problem in caught.value.problems), (start, words)
    assert len(caught.value.problems) == len(expected), caught.value.problems
