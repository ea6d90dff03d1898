import csv
import json
import logging
import math

import numpy as np
import pytest

from src.data.geometry import Geometry
from src.errors import UserError
from src.metrics.cases import evaluate_case
from src.metrics.promise12 import KEYS, REFERENCE_PATH, read_observer, region_metrics, regions, score, write_promise12

SHAPE = (12, 12, 14)
SPACING = (0.5, 0.5, 3.0)
UP = Geometry(SHAPE, SPACING)
DOWN = Geometry(SHAPE, SPACING, direction=(1, 0, 0, 0, -1, 0, 0, 0, -1))
DIAGONAL = math.sqrt(6**2 + 6**2 + 42**2)


def box(first, last, low=3, high=9):
    """Slices first to last, both included; [low, high) in x."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[low:high, 3:9, first : last + 1] = 1
    return mask


def slices(part, axis=2):
    return np.flatnonzero(part.any(axis=tuple(other for other in range(3) if other != axis))).tolist()


@pytest.mark.parametrize(("count", "apex", "base"), [
    (1, [0, 1, 2, 3, 4], [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
    (2, [0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11, 12, 13]),
    (4, [0, 1, 2, 3, 4], [7, 8, 9, 10, 11, 12, 13]),
    (5, [0, 1, 2, 3, 4, 5], [7, 8, 9, 10, 11, 12, 13]),
    (6, [0, 1, 2, 3, 4, 5], [8, 9, 10, 11, 12, 13]),
])  # fmt: skip
def test_thirds_of_the_reference_with_what_lies_beyond(count, apex, base):
    found = regions(box(4, 3 + count) > 0, UP)
    assert slices(found["apex"]) == apex and slices(found["base"]) == base
    assert found["apex"][:, :, 0].all(), "whole slices"
    turned = regions(box(4, 3 + count) > 0, DOWN)
    assert slices(turned["apex"]) == base and slices(turned["base"]) == apex


def test_the_axis_is_the_one_closest_to_feet_to_head():
    reference = np.zeros((14, 12, 12), dtype=bool)
    reference[4:10, 3:9, 3:9] = True
    c, s = np.cos(0.3), np.sin(0.3)
    # Image axis x runs towards the head, tilted by 17 degrees.
    tilted = Geometry((14, 12, 12), direction=(0, 1, 0, -s, 0, c, c, 0, s))
    assert slices(regions(reference, tilted)["apex"], 0) == [0, 1, 2, 3, 4, 5]
    assert slices(regions(reference, tilted)["base"], 0) == [8, 9, 10, 11, 12, 13]


def test_perfect():
    row = region_metrics(box(4, 9), box(4, 9), UP)
    assert list(row) == [*KEYS, "flag"]
    assert [row[key] for key in KEYS] == [1, 0, 0, 0] * 3 and row["flag"] == ""


@pytest.mark.parametrize(("geometry", "apex", "base"), [(UP, "apex", "base"), (DOWN, "base", "apex")])
def test_a_slice_too_many_at_one_end(geometry, apex, base):
    # Reference: slices 4 to 9 of 36 voxels. Predicted as well: slices 2 and 3.
    row = region_metrics(box(2, 9), box(4, 9), geometry)
    assert row["dice_whole"] == pytest.approx(2 * 6 / (8 + 6))
    assert row["abs_rvd_whole"] == pytest.approx(100 / 3)
    assert row[f"dice_{apex}"] == pytest.approx(2 * 2 / (4 + 2))
    assert row[f"abs_rvd_{apex}"] == pytest.approx(100)
    assert row[f"hd95_{apex}"] == pytest.approx(6.0)  # two slices of 3 mm
    assert [row[f"{key}_{base}"] for key in ("dice", "hd95", "abd", "abs_rvd")] == [1, 0, 0, 0]
    # By hand, whole: of the prediction 36 points at 6 mm and 20 (the rim of slice 3) at 3 mm; in slice 4 the 16 inner
    # points of the reference are surface, 0.5, 1 ... mm from the prediction's nearest surface point, its rim.
    inner = 12 * 0.5 + 4 * 1.0
    points = (2 * 36 + 6 * 20) + (2 * 36 + 4 * 20)
    assert row["abd_whole"] == pytest.approx((36 * 6 + 20 * 3 + inner) / points)
    # Apex: slices 2 to 5 of the prediction, 4 and 5 of the reference; the plane that cuts 5 from 6 is no boundary.
    assert row[f"abd_{apex}"] == pytest.approx((36 * 6 + 20 * 3 + inner) / ((36 + 3 * 20) + (36 + 20)))


def test_whole_is_that_of_the_ordinary_table():
    prediction, reference = box(3, 8, low=4), box(4, 9)
    row = region_metrics(prediction, reference, UP)
    table = evaluate_case("case", prediction, reference, SPACING)
    assert [row[f"{key}_whole"] for key in ("dice", "hd95", "abd")] == [table[key] for key in ("dice", "hd95", "abd")]
    assert row["abs_rvd_whole"] == abs(table["rvd"]) > 0


EMPTY = np.zeros(SHAPE, dtype=np.uint8)


@pytest.mark.parametrize(("prediction", "reference", "flag", "values"), [
    (EMPTY, EMPTY, "both empty", [1, 0, 0, 0]),
    (EMPTY, box(4, 9), "empty prediction", [0, DIAGONAL, DIAGONAL, 100]),
    (box(4, 9), EMPTY, "empty reference", [0, DIAGONAL, DIAGONAL, 100]),
])  # fmt: skip
def test_empty_masks(prediction, reference, flag, values):
    row = region_metrics(prediction, reference, UP)
    assert [row[key] for key in KEYS] == pytest.approx(values * 3)
    assert row["flag"] == flag


def test_an_empty_region():
    row = region_metrics(box(6, 9), box(4, 9), UP)
    assert row["flag"] == "apex: empty prediction"
    assert [row[f"{key}_apex"] for key in ("dice", "hd95", "abd", "abs_rvd")] == pytest.approx(
        [0, DIAGONAL, DIAGONAL, 100])
    assert row["dice_base"] == 1 and row["dice_whole"] == pytest.approx(0.8)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="one grid"):
        region_metrics(EMPTY[..., 1:], EMPTY, UP)


@pytest.mark.parametrize(("key", "value", "observer", "points"), [
    ("dice_whole", 1.0, 0.8, 100), ("dice_whole", 0.8, 0.8, 85), ("dice_apex", 0.6, 0.8, 70),
    ("dice_base", 0.0, 0.9, 0), ("hd95_whole", 0.0, 4.0, 100), ("abd_base", 2.0, 2.0, 85), ("hd95_apex", 8.0, 4.0, 70),
    ("abs_rvd_whole", 70.0, 10.0, 0),
])  # fmt: skip
def test_score(key, value, observer, points):
    assert score(key, value, observer) == pytest.approx(points)


@pytest.fixture
def rows():
    shifted = {"case_id": "Case1", **region_metrics(box(6, 9), box(4, 9), UP)}
    return [shifted, {"case_id": "Case2", **region_metrics(box(4, 9), box(4, 9), UP)}]


def table(tmp_path, **changes):
    values = {key: 0.5 if key.startswith("dice") else 2 * DIAGONAL for key in KEYS} | changes
    path = tmp_path / "observer.json"
    path.write_text(json.dumps({"second_observer": values}))
    return path


def test_the_table_that_comes_with_the_program_is_to_be_filled_in():
    assert read_observer(REFERENCE_PATH) == ({}, list(KEYS))


def test_without_the_observer_there_are_metrics_and_no_score(tmp_path, rows, caplog):
    caplog.set_level(logging.INFO)
    summary = write_promise12(tmp_path / "out", rows)
    assert summary["score"] is None and summary["scores"] is None
    assert summary["note"] == (
        "PROMISE12: metrics without the 0-100 score, since configs/promise12_reference.json lacks 12 of 12 values of "
        "the second observer; fill them in from the organisers' paper.")
    assert summary["note"] in caplog.text and "PROMISE12    Dice" in caplog.text
    assert (summary["cases"], summary["flagged"], summary["flags"]) == (2, 1, {"apex: empty prediction": 1})
    assert summary["dice_apex"] == pytest.approx({"mean": 0.5, "sd": math.sqrt(0.5), "median": 0.5, "min": 0, "max": 1})
    assert json.loads((tmp_path / "out" / "promise12.json").read_text()) == summary
    with (tmp_path / "out" / "promise12.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["case_id", *KEYS, "flag"]
    assert float(read[0]["hd95_apex"]) == rows[0]["hd95_apex"]


def test_score_of_cases(tmp_path, rows):
    summary = write_promise12(tmp_path, [{**row, "fold": 2} for row in rows], table(tmp_path))
    with (tmp_path / "promise12.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["case_id", "fold", *KEYS, "score", "flag"]
    # Case1 by hand: apex Dice 0 (100 - 30), HD95 and ABD half of the observer's (100 - 7.5).
    assert summary["scores"]["dice_apex"] == pytest.approx((70 + 100) / 2)
    assert summary["scores"]["hd95_apex"] == pytest.approx((92.5 + 100) / 2)
    lost = [30 * (1 - rows[0][key]) if key.startswith("dice") else 7.5 * rows[0][key] / DIAGONAL for key in KEYS]
    assert float(read[0]["score"]) == pytest.approx(100 - sum(lost) / 12)
    assert float(read[1]["score"]) == 100
    assert summary["score"]["mean"] == pytest.approx(100 - sum(lost) / 24)
    assert summary["note"].startswith(f"PROMISE12 score: {summary['score']['mean']:.2f} of 100")


def test_a_table_with_one_gap_gives_no_score(tmp_path, rows):
    summary = write_promise12(tmp_path, rows, table(tmp_path, abd_base=None))
    assert summary["score"] is None and "lacks 1 of 12 values" in summary["note"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"dice_whole": 1.0}, "dice_whole is 1.0, expected a Dice between 0 and 1"),
    ({"abd_base": 0}, "abd_base is 0, expected a number above 0"),
    ({"hd95_apex": "4"}, "expected a number above 0"),
    ({"dice_mid": 0.5}, r"wrong or missing keys \(dice_mid\)"),
])  # fmt: skip
def test_a_wrong_table(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_observer(table(tmp_path, **changes))


def test_no_table_and_no_rows(tmp_path):
    with pytest.raises(UserError, match="nowhere.json: cannot be read"):
        read_observer(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match="at least one"):
        write_promise12(tmp_path, [])
