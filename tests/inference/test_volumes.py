"""Prediction from files to files: formats, geometry, and inputs that are none."""

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from src.data.geometry import Geometry
from src.data.volume_files import read_volume, write_volume
from src.errors import DataError, UserError
from src.inference.volumes import predict_volumes
from tests.data.helpers import OBLIQUE
from tests.inference.helpers import (
    GRID,
    MANAGER,
    THREE_CLASSES,
    FunctionPredictor,
    bright,
    bright_halves,
    bright_volume,
    nothing,
)

TILTED = Geometry((30, 24, 18), (1.1, 1.3, 1.9), (-57.68, 82.36, -27.08), OBLIQUE.direction)
RECIPE = {"task": "promise12"}


def predict(source, output, predictor=None):
    return predict_volumes(predictor or bright(), MANAGER, source, output, RECIPE, "a test")


@pytest.mark.parametrize("name", ["a.mhd", "a.mha", "a.nii", "a.nii.gz", "two.dots.nii.gz"])
def test_same_format_and_geometry(tmp_path, name):
    image, label = bright_volume(TILTED, (8, 8, 8))
    write_volume(tmp_path / "in" / name, image, TILTED)
    (written,) = predict(tmp_path / "in" / name, tmp_path / "out")
    stem = "two.dots" if name.startswith("two") else "a"
    assert written == tmp_path / "out" / f"{stem}_test{name.removeprefix(stem)}"
    mask, grid = read_volume(written)
    _, expected = read_volume(tmp_path / "in" / name)
    assert grid.size == TILTED.size
    for key in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(grid, key), getattr(expected, key), atol=1e-6)
        np.testing.assert_allclose(getattr(grid, key), getattr(TILTED, key), atol=2e-5)  # NIfTI stores float32
    assert 2 * np.sum(mask & label) / (mask.sum() + label.sum()) > 0.9
    assert sitk.ReadImage(str(written)).GetPixelIDTypeAsString() == "8-bit unsigned integer"


def test_folder_of_volumes(tmp_path, caplog):
    for name in ("b.nii.gz", "a.mhd", "A.mha"):
        write_volume(tmp_path / "in" / name, bright_volume(GRID, (8, 9, 10))[0], GRID)
    (tmp_path / "in" / "notes.txt").write_text("x")
    with caplog.at_level(logging.INFO):
        written = predict(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in written] == ["A_test.mha", "a_test.mhd", "b_test.nii.gz"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "A_test.mha", "a_test.mhd", "a_test.zraw", "b_test.nii.gz", "report.html"]
    assert "left alone in" in caplog.text
    assert "notes.txt" in caplog.text
    lines = [record.getMessage() for record in caplog.records if " ml -> " in record.getMessage()]
    assert len(lines) == 3
    millilitres = read_volume(written[0])[0].sum() * 1.875 / 1000
    assert f"A.mha (1 of 3): {lines[0].split(': ')[1].split(' s,')[0]} s, foreground {millilitres:.2f} ml" in lines[0]
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count("data:image/png") >= 3
    assert "Prediction by a test" in report


def test_good_volumes_are_written_and_all_problems_listed(tmp_path):
    folder = tmp_path / "in"
    image, label = bright_volume(GRID, (8, 9, 10))
    write_volume(folder / "good.mha", image, GRID)
    write_volume(folder / "good_segmentation.mha", label, GRID)
    write_volume(folder / "zones.mha", label + label * (np.arange(20) > 10), GRID)
    write_volume(folder / "flat.mha", np.full(GRID.size, 7, np.int16), GRID)
    (folder / "cut.nii.gz").write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(DataError) as caught:
        predict(folder, tmp_path / "out")
    assert len(caught.value.problems) == 4
    for text in ("zones.mha: holds 3 different values only (0, 1, 2)", "flat.mha", "cut.nii.gz",
                 "good_segmentation.mha: by its name (_segmentation) a label"):
        assert text in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good_test.mha", "report.html"]
    assert "not predicted" in (tmp_path / "out" / "report.html").read_text()


@pytest.fixture
def three(tmp_path):
    """Three good volumes in a folder."""
    for name in ("a.mha", "b.mhd", "c.nii.gz"):
        write_volume(tmp_path / "in" / name, bright_volume(GRID, (8, 9, 10))[0], GRID)
    return tmp_path / "in"


@pytest.mark.parametrize("name", ["a_test.mha", "b_test.mhd", "c_test.nii.gz"])
def test_mask_that_cannot_be_written_does_not_stop_the_others(three, tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / name / "mine").write_text("x")
    with pytest.raises(DataError) as caught:
        predict(three, tmp_path / "out")
    assert len(caught.value.problems) == 1
    assert name in caught.value.problems[0]
    wanted = {"a_test.mha", "b_test.mhd", "b_test.zraw", "c_test.nii.gz", "report.html"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == wanted - (
        {"b_test.zraw"} if name == "b_test.mhd" else set())
    assert [path.name for path in (tmp_path / "out" / name).iterdir()] == ["mine"]
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count("<figure") == 2
    assert "not predicted" in report


@pytest.mark.parametrize(("error", "reason"), [
    (OSError(28, "No space left on device", "x.tmp"), "No space left on device"),
    (RuntimeError("Exception thrown in SimpleITK WriteImage:\nsitk::ERROR: cannot write"), "sitk::ERROR: cannot write"),
    (UserError("b_test.mhd: disk is full; make room"), "b_test.mhd: disk is full; make room"),
])
def test_every_kind_of_write_failure_is_one_files_problem(three, tmp_path, monkeypatch, error, reason):
    def write(path, *arguments):
        if path.name == "b_test.mhd":
            raise error
        write_volume(path, *arguments)

    monkeypatch.setattr("src.data.data_manager.write_volume", write)
    with pytest.raises(DataError) as caught:
        predict(three, tmp_path / "out")
    (problem,) = caught.value.problems
    assert reason in problem
    assert "b_test.mhd" in problem
    assert "\n" not in problem
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_test.mha", "c_test.nii.gz", "report.html"]


def test_report_that_cannot_be_written_hides_no_other_problem(three, tmp_path):
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    (three / "flat.mha").write_bytes(b"nothing")
    with pytest.raises(DataError, match="flat.mha") as caught:
        predict(three, tmp_path / "out")
    assert len(caught.value.problems) == 2
    assert "report.html cannot be written" in caught.value.problems[1]
    assert (tmp_path / "out" / "c_test.nii.gz").is_file()


def test_answer_that_is_not_finite_is_one_files_problem(three, tmp_path):
    def second_is_nan(image):
        return image > 1.0 if len(predictor.blocks) != 2 else np.full_like(image, np.nan)

    predictor = FunctionPredictor(second_is_nan)
    predictor.path = Path("best.ckpt")
    with pytest.raises(DataError) as caught:
        predict(three, tmp_path / "out", predictor)
    (problem,) = caught.value.problems
    assert problem.startswith("b.mhd: model best.ckpt gives a probability that is not finite in 32768 of 32768 voxels")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_test.mha", "c_test.nii.gz", "report.html"]


def test_inputs_are_never_overwritten(tmp_path):
    folder = tmp_path / "in"
    image = bright_volume(GRID, (8, 9, 10))[0]
    write_volume(folder / "a.mha", image, GRID)
    with pytest.raises(UserError, match="is the folder of the inputs"):
        predict(folder, tmp_path / "in" / ".." / "in")
    with pytest.raises(UserError, match="is the folder of the inputs"):
        predict(folder / "a.mha", folder)
    # An input that is a link to where its neighbour's mask would go.
    write_volume(tmp_path / "out" / "a_test.mha", image, GRID)
    before = (tmp_path / "out" / "a_test.mha").read_bytes()
    (folder / "b.mha").symlink_to(tmp_path / "out" / "a_test.mha")
    with pytest.raises(DataError, match="a_test.mha would overwrite an input"):
        predict(folder, tmp_path / "out")
    assert (tmp_path / "out" / "a_test.mha").read_bytes() == before
    assert (tmp_path / "out" / "b_test.mha").is_file()


def test_empty_prediction_is_written(tmp_path):
    write_volume(tmp_path / "in" / "a.mha", bright_volume(GRID, (8, 9, 10))[0], GRID)
    (written,) = predict(tmp_path / "in", tmp_path / "out", nothing())
    assert read_volume(written)[0].sum() == 0


def test_classes_are_written_and_their_volumes_logged(tmp_path, caplog):
    write_volume(tmp_path / "in" / "a.mha", bright_volume(GRID, (8, 9, 10))[0], GRID)
    with caplog.at_level(logging.INFO):
        (written,) = predict_volumes(bright_halves(), THREE_CLASSES, tmp_path / "in", tmp_path / "out", RECIPE, "test")
    mask, _ = read_volume(written)
    first, second = (np.sum(mask == number) * 1.875 / 1000 for number in (1, 2))
    assert min(first, second) > 1  # of 3.016 ml
    assert f"foreground {first + second:.2f} ml (class 1: {first:.2f}, class 2: {second:.2f}) -> " in caplog.text


def test_output_that_is_a_file(tmp_path):
    write_volume(tmp_path / "in" / "a.mha", bright_volume(GRID, (8, 9, 10))[0], GRID)
    (tmp_path / "out").write_text("x")
    with pytest.raises(UserError, match="--output .*out: cannot be made a folder"):
        predict(tmp_path / "in", tmp_path / "out")
