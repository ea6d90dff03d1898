"""Patients of slices: crop, statistics, masks as files, and every way in which a patient's files can be wrong."""

import numpy as np
import pytest
from PIL import Image

from src.data import lgg
from src.data.case import Case
from src.data.check import checked_cases
from src.data.geometry import Geometry
from src.data.lgg import LggManager
from src.data.picture_files import read_mask
from src.errors import DataError, UserError
from tests.pictures import make_lgg

NAME = "TCGA_XX_0001_20000101"


@pytest.fixture
def patient(tmp_path):
    make_lgg(tmp_path, patients=2)
    return tmp_path / NAME


def load_problems(folder) -> list[str]:
    with pytest.raises(DataError) as caught:
        LggManager((48, 48)).load(Case(NAME, folder, folder))
    assert all(problem.startswith(f"{NAME}: ") for problem in caught.value.problems)
    return [problem.removeprefix(f"{NAME}: ") for problem in caught.value.problems]


def test_names_and_cases(patient):
    data_path = patient.parent
    (data_path / "data.csv").touch()
    (data_path / "other").mkdir()
    (data_path / ".hidden").mkdir()
    names = lgg.all_names(data_path)
    assert names == [NAME, "TCGA_XX_0002_20000101"]
    assert lgg.find_cases(data_path, names[::-1])[1] == Case(NAME, patient, patient)
    for mask in patient.glob("*_mask.tif"):
        mask.unlink()
    assert lgg.find_cases(data_path, [NAME], need_labels=False) == [Case(NAME, patient, None)]
    with pytest.raises(DataError) as caught:
        lgg.find_cases(data_path, [NAME, "TCGA_YY", names[1], names[1]])
    assert [problem.split(":")[0] for problem in caught.value.problems] == [NAME, "TCGA_YY", names[1]]
    for word, problem in zip(("no mask", "is missing", "named twice"), caught.value.problems, strict=True):
        assert word in problem


def test_a_patient_of_any_name_and_suffix(patient):
    """As `patient_files` reads them: .tif or .tiff, in small letters or capitals."""
    (patient.parent / "b").mkdir()
    patient.rename(patient.parent / "a")
    for file in (patient.parent / "a").iterdir():
        file.rename(file.with_suffix(".TIFF"))
    assert lgg.all_names(patient.parent) == ["TCGA_XX_0002_20000101", "a"]
    assert lgg.patient_files(patient.parent / "a", need_masks=True)[2] == []


def test_folders_that_are_none(tmp_path):
    make_lgg(tmp_path / "download" / "kaggle", patients=1)
    with pytest.raises(UserError, match=f"has no patient's folder .*; give {tmp_path}/download/kaggle"):
        lgg.all_names(tmp_path / "download")
    with pytest.raises(UserError, match="is not there; give the folder that holds the folders TCGA_"):
        lgg.all_names(tmp_path / "nowhere")
    with pytest.raises(UserError, match="one file, expected a patient's folder"):
        lgg.find_inputs(tmp_path / "download" / "kaggle" / NAME / f"{NAME}_1.tif")
    with pytest.raises(UserError, match="no such folder"):
        lgg.find_inputs(tmp_path / "nowhere")


def test_slices_are_in_the_order_of_their_numbers(tmp_path):
    make_lgg(tmp_path, patients=1, slices=11)
    image, label, _ = LggManager((48, 48)).read_pictures(Case(NAME, tmp_path / NAME, tmp_path / NAME))
    assert image.shape == (3, 48, 48, 11)
    with Image.open(tmp_path / NAME / f"{NAME}_10.tif") as picture:
        np.testing.assert_array_equal(image[..., 9].transpose(2, 1, 0), np.array(picture))
    np.testing.assert_array_equal(label[..., 9], read_mask(tmp_path / NAME / f"{NAME}_10_mask.tif"))


def test_crop_and_padding_by_hand():
    """A brain of 20 x 10 pixels in slices 1 and 2 of 4, brighter than a tenth of the maximum; noise below is none."""
    manager = LggManager((40, 40))
    image = np.full((3, 32, 32, 4), 18, np.uint8)
    image[1, 4:24, 10:20, 1:3] = 201
    box = manager.crop_box(image)
    assert box == (slice(4, 24), slice(10, 20), slice(1, 3))
    # A square of 20 pixels around it, 5 more on both sides along y; 40 pixels of one half each.
    assert manager.block_grid(box) == Geometry((40, 40, 2), (0.5, 0.5, 1), (3.75, 4.75, 1))
    block, _ = manager.preprocess_pictures(image + np.random.default_rng(0).integers(0, 2, image.shape, np.uint8), None)
    assert block.shape == (3, 40, 40, 2)
    for channel in range(3):  # padding is one value, the least
        assert np.ptp(block[channel, :, :9]) == 0 and block[channel, 0, 0, 0] == block[channel].min()
    with pytest.raises(DataError, match="no voxel above 0"):
        manager.crop_box(np.zeros((3, 4, 4, 2), np.uint8))


def test_normalised_over_the_volume(patient):
    """Against float64: each channel clipped to its percentiles 10 and 99, mean 0 and deviation 1 over all slices."""
    manager = LggManager((48, 48))
    rng = np.random.default_rng(3)
    image = rng.integers(50, 200, (3, 48, 48, 5)).astype(np.uint8)  # no background: nothing is cropped
    block, _ = manager.preprocess_pictures(image, None)
    values = image.astype(np.float64)
    for found, channel in zip(block, values, strict=True):
        clipped = np.clip(channel, *np.percentile(channel, (10, 99)))
        np.testing.assert_allclose(found, (clipped - clipped.mean()) / clipped.std(), atol=1e-5)


def test_foreground_outside_of_the_brain_is_told(tmp_path):
    make_lgg(tmp_path, patients=1)
    mask = np.zeros((48, 48), np.uint8)
    mask[24, 24] = mask[0, :3] = 255  # three of the four pixels are in the first row
    for k in range(1, 5):
        Image.fromarray(mask * (k == 2)).save(tmp_path / NAME / f"{NAME}_{k}_mask.tif")
    one = LggManager((48, 48)).load(Case(NAME, tmp_path / NAME, tmp_path / NAME))
    assert one.cropped_foreground == pytest.approx(0.75)
    assert one.foreground_ml == pytest.approx(4 / 1000)


def test_all_damage_is_listed_at_once(patient):
    def save(name, shape, values=(0, 255)):
        Image.fromarray(np.resize(np.array(values, np.uint8), shape)).save(patient / name)

    save(f"{NAME}_1.tif", (40, 48, 3))  # other slices have 48 x 48
    save(f"{NAME}_1_mask.tif", (40, 48))
    save(f"{NAME}_2_mask.tif", (40, 48))
    save(f"{NAME}_3_mask.tif", (48, 48), (0, 128, 255))
    (patient / f"{NAME}_4.tif").write_bytes(b"II*\0damaged")
    (patient / f"{NAME}_4_mask.tif").unlink()
    save(f"{NAME}_5.tif", (48, 48))  # grey
    save(f"{NAME}_6_mask.tif", (48, 48))
    save(f"{NAME}_9.tif", (48, 48, 3))
    save(f"{NAME}_9_mask.tif", (48, 48))
    save(f"{NAME}_009.tif", (48, 48, 3))
    save("notes.tif", (48, 48))
    problems = load_problems(patient)
    expected = [("notes.tif", "neither a slice nor a mask by its name"), (f"{NAME}_9.tif", "the same slice as"),
                (str(patient), "a gap in the slice numbers from 1 to 9: 7, 8 are missing"),
                (f"{NAME}_6.tif", "the slice is missing, its mask is there"),
                (f"{NAME}_4_mask.tif", "the mask is missing"), (f"{NAME}_5_mask.tif", "the mask is missing"),
                (f"{NAME}_2_mask.tif", "the mask has 48 x 40 pixels, its picture 48 x 48"),
                (f"{NAME}_3_mask.tif", "mask values are {0, 128, 255}"),
                (f"{NAME}_4.tif", "cannot be read as a picture"), (f"{NAME}_5.tif", "1 channel, expected 3"),
                (f"{NAME}_1.tif", "48 x 40 pixels, other slices of the patient have 48 x 48")]
    for file, words in expected:
        assert any(file in problem and words in problem for problem in problems), (file, words, problems)
    assert len(problems) == len(expected)


def test_problems_of_several_patients_come_in_one_list(patient):
    (patient / f"{NAME}_2.tif").unlink()
    (patient.parent / "TCGA_XX_0002_20000101" / "TCGA_XX_0002_20000101_3_mask.tif").unlink()
    names = [*lgg.all_names(patient.parent), "TCGA_ZZ"]
    with pytest.raises(DataError) as caught:
        checked_cases(lgg, patient.parent, names, LggManager((48, 48)))
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["TCGA_ZZ", *names[:2]]


def test_further_mistakes_in_a_folder(patient):
    (patient / f"{NAME}_1.tif").rename(patient / f"{NAME}_0.tif")
    (patient / f"{NAME}_2.tif").rename(patient / "TCGA_OTHER_2.tif")
    problems = load_problems(patient)
    assert any("slices of 2 patients: " in problem for problem in problems)
    assert any("a slice number 0, expected numbers from 1 on" in problem for problem in problems)
    for file in patient.iterdir():
        file.unlink()
    assert load_problems(patient) == [f"{patient}: no slice, expected {NAME}_1.tif and so on; add them"]


def test_masks_are_written_as_the_data_set_has_them(patient, tmp_path):
    manager, case = LggManager((48, 48)), Case(NAME, patient)
    mask = np.zeros((48, 48, 4), np.uint8)
    mask[5, 7, 2] = 1
    paths = manager.write_mask(tmp_path / "out", case, mask, Geometry(mask.shape))
    assert paths == [tmp_path / "out" / NAME / f"{NAME}_{k}_mask.tif" for k in range(1, 5)]
    with Image.open(paths[2]) as picture:
        array = np.array(picture)
    assert array[7, 5] == 255 and array.sum() == 255
    with pytest.raises(UserError, match="would overwrite the patient's own"):
        manager.write_mask(patient.parent, case, mask, Geometry(mask.shape))


def test_inputs(patient):
    both, problems = lgg.find_inputs(patient.parent)
    assert ([case.case_id for case in both], problems) == (lgg.all_names(patient.parent), [])
    assert lgg.find_inputs(patient) == ([Case(NAME, patient)], [])
    assert both[0].label_path is None


@pytest.mark.parametrize(("patients", "validation"), [(2, 1), (6, 1), (13, 2), (59, 9), (110, 10)])
def test_a_sixth_validates(patients, validation):
    assert lgg.validation_count(patients) == validation
