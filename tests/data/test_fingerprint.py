"""Facts of generated cases, worked out by hand."""

import json
import logging

import numpy as np
import pytest

from src.data import prostate
from src.data.fingerprint import by_axis, measure, orientation, take_fingerprint
from src.data.geometry import Geometry
from src.errors import DataError
from tests.data.helpers import OBLIQUE, write_case

GRID = Geometry((20, 10, 8), (0.5, 1, 2))


def ramp(size=GRID.size):
    """Intensities 0 to N - 1."""
    return np.arange(np.prod(size), dtype=np.int16).reshape(size)


def make(folder, number, label, grid=GRID, image=None):
    return write_case(folder, f"Case{number:02d}", ramp(grid.size) if image is None else image, label, grid)


def taken(folder):
    return take_fingerprint(prostate, folder, prostate.all_names(folder))


def parts_label(dtype=np.uint8):
    """40 voxels of class 1 in one block, 10 of class 2 that touch it, and 5 of class 2 apart."""
    label = np.zeros(GRID.size, dtype)
    label[2:6, 3:8, 2:4] = 1
    label[6, 3:8, 2:4] = 2
    label[15, 3:8, 4] = 2
    return label


def test_facts_of_a_case(tmp_path):
    facts = measure(make(tmp_path, 0, parts_label()))
    assert (facts.size, facts.spacing, facts.extent_mm) == (GRID.size, GRID.spacing, (10, 10, 16))
    assert (facts.orientation, facts.tilt) == ("LPS", 0)
    low, high = np.percentile(np.arange(1600), (0.5, 99.5))
    assert facts.intensities == (0, pytest.approx(low), pytest.approx(high), 1599)
    assert not facts.spiky
    assert facts.label_voxels == {1: 40, 2: 15}
    assert facts.class_voxels(3) == [40, 15]
    assert facts.class_ml(3) == pytest.approx([0.040, 0.015])
    assert facts.foreground_share == pytest.approx(55 / 1600)
    # Voxels 2 to 15, 3 to 7, 2 to 4; the centre lies at the edges 10, 5, 4.
    assert facts.foreground_mm == (14 * 0.5, 5 * 1, 3 * 2)
    assert facts.centred_mm == (2 * 8 * 0.5, 2 * 3 * 1, 2 * 2 * 2)
    assert (facts.components, facts.largest_share) == (2, pytest.approx(50 / 55))
    assert sorted(facts.foreground_sample) == sorted(ramp()[parts_label() > 0])


def test_a_spike_is_seen(tmp_path):
    image = ramp()
    image[0, 0, 0] = 4000
    assert measure(make(tmp_path, 0, parts_label(), image=image)).spiky


def test_an_empty_label(tmp_path):
    facts = measure(make(tmp_path, 0, np.zeros(GRID.size, np.uint8)))
    assert facts.foreground_mm == facts.centred_mm == (0, 0, 0)
    assert (facts.components, facts.largest_share, facts.class_voxels(3), len(facts.foreground_sample)) == (
        0, 1, [0, 0], 0)
    with pytest.raises(DataError, match="no label of the 1 cases has any foreground"):
        taken(tmp_path)
    make(tmp_path, 1, parts_label())
    assert any("the label is empty in Case00" in note for note in taken(tmp_path).notes)


def test_many_foreground_voxels_are_sampled_evenly(tmp_path):
    grid = Geometry((50, 50, 50))
    image = np.arange(125_000, dtype=np.int32).reshape(grid.size)
    facts = measure(make(tmp_path, 0, np.ones(grid.size, np.uint8), grid, image))
    np.testing.assert_array_equal(facts.foreground_sample, np.arange(0, 125_000, 13))


@pytest.mark.parametrize(("direction", "code"), [
    ((1, 0, 0, 0, 1, 0, 0, 0, 1), "LPS"), ((-1, 0, 0, 0, -1, 0, 0, 0, 1), "RAS"),
    ((0, 0, 1, 1, 0, 0, 0, -1, 0), "PIL")])
def test_orientation(direction, code):
    assert orientation(Geometry((2, 2, 2), direction=direction)) == (code, 0)


def test_oblique_orientation():
    code, tilt = orientation(OBLIQUE)
    assert code == "LPS"
    assert tilt == pytest.approx(18.49, abs=0.01)  # the series is tilted by as much about x


@pytest.mark.parametrize(("values", "classes"), [
    ((1,), 2), ((255,), 2), ((1, 2), 3), ((2, 5), 6)])
def test_number_of_classes(tmp_path, values, classes):
    label = np.resize(np.array([0, *values], np.float32), GRID.size)
    make(tmp_path, 0, label)
    make(tmp_path, 1, label)
    found = taken(tmp_path)
    assert found.classes == classes
    assert found.cases[0].class_voxels(classes)[-1] == np.count_nonzero(label == values[-1])
    assert any("no case has class 1, 3, 4" in note for note in found.notes) == (values == (2, 5))


@pytest.mark.parametrize(("first", "second", "classes", "note"), [
    (1, 255, 2, "not the same (1, 255); all are taken as one class"), (1, 2, 3, "taken as classes")])
def test_foreground_values_that_differ_between_cases(tmp_path, first, second, classes, note):
    for number, value in enumerate((first, second)):
        make(tmp_path, number, (parts_label() > 0).astype(np.uint8) * value)
    found = taken(tmp_path)
    assert found.classes == classes
    assert note in found.notes[0]


def test_every_problem_of_every_case(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make(tmp_path, 0, parts_label())
    make(tmp_path, 1, np.resize(np.array([0, 0.5, 2], np.float32), GRID.size))
    make(tmp_path, 2, parts_label(), image=np.zeros(GRID.size, np.int16))
    make(tmp_path, 3, parts_label()).label_path.unlink()
    with pytest.raises(DataError) as caught:
        take_fingerprint(prostate, tmp_path, prostate.all_names(tmp_path), ["train.csv: wrong"])
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["train.csv", "Case03", "Case01", "Case02"]
    assert "are {0.5, 2}, expected one value above 0.5, or whole numbers from 1 to 15" in caught.value.problems[2]
    assert "Case00: 20 x 10 x 8 voxels, foreground 0.06 ml" in caplog.text


def test_a_value_beyond_the_classes_of_the_others(tmp_path):
    make(tmp_path, 0, parts_label())
    make(tmp_path, 1, (parts_label() > 0).astype(np.uint8) * 255)
    with pytest.raises(DataError, match=r"Case01: label values other than 0 are \{255\}, those of .* 1 to 2"):
        taken(tmp_path)


def test_the_whole_as_lines_and_json(tmp_path):
    make(tmp_path, 0, parts_label())
    make(tmp_path, 1, parts_label(np.float32), Geometry(GRID.size, (0.5, 1, 4)))
    found = taken(tmp_path)
    one, two = found.balance()
    assert (one["voxels"], two["voxels"], one["cases"]) == (80, 30, 2)
    assert one["median_ml"] == pytest.approx((0.040 + 0.080) / 2)
    assert two["share_of_foreground"] == pytest.approx(30 / 110)
    np.testing.assert_allclose(found.foreground_intensities()[1], np.median(ramp()[parts_label() > 0]))
    text = "\n".join(found.lines())
    for part in ("cases        2", "spacing      median 0.5 x 1 x 3 mm, 0.5 x 1 x 2 to 0.5 x 1 x 4",
                 "orientation  LPS 2", "class 2      30 voxels, 27.3 % of the foreground",
                 "components   median 2, 2 to 2"):
        assert part in text
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert stored["classes"] == 3
    assert stored["cases"][1]["class_voxels"] == [40, 15] and stored["cases"][1]["spacing"] == [0.5, 1, 4]


def test_values_by_axis():
    assert by_axis([128, 128, 64]) == "128 x 128 x 64"
    assert by_axis(np.array([0.62501, 0.7, 1 / 3])) == "0.625 x 0.7 x 0.3333"


def test_notes_on_grids(tmp_path):
    make(tmp_path, 0, np.resize([0, 1], (32, 32, 8)).astype(np.uint8), Geometry((32, 32, 8)))
    assert any("a matrix of 32 x 32 x 8 voxels: the true spacing was probably lost" in note
               for note in taken(tmp_path).notes)
    turned = Geometry((32, 32, 20), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    make(tmp_path, 0, np.resize([0, 1], turned.size).astype(np.uint8), turned)
    make(tmp_path, 1, np.resize([0, 1], turned.size).astype(np.uint8), Geometry(turned.size))
    notes = taken(tmp_path).notes
    assert len(notes) == 1 and "oriented differently (LPS, RAS): normDir=true" in notes[0]
