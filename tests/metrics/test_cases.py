import csv
import math

import numpy as np
import pytest

from src.metrics.cases import METRICS, evaluate_case, format_table, summarise, worst_first, write_metrics_csv

SPACING = (0.5, 0.5, 4.0)


def box(start, stop, shape=(20, 20, 10)):
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return mask


EMPTY = box((0, 0, 0), (0, 0, 0))
BOX = box((4, 4, 4), (14, 14, 6))
SHIFTED = box((6, 4, 4), (16, 14, 6))
DIAGONAL = math.sqrt(10**2 + 10**2 + 40**2)


@pytest.fixture
def rows():
    return [
        evaluate_case("good", BOX, BOX, SPACING),
        evaluate_case("missed", EMPTY, BOX, SPACING),
        evaluate_case("shifted", SHIFTED, BOX, SPACING),
        evaluate_case("invented", BOX, EMPTY, SPACING),
        evaluate_case("nothing", EMPTY, EMPTY, SPACING),
    ]


def test_row_of_a_shifted_box():
    row = evaluate_case("Case07", SHIFTED, BOX, SPACING)
    assert list(row) == ["case_id", *(metric.key for metric in METRICS), "flag"]
    assert row["case_id"] == "Case07" and row["flag"] == ""
    assert row["dice"] == pytest.approx(0.8)
    assert row["iou"] == pytest.approx(160 / 240)
    assert row["hausdorff"] == pytest.approx(1.0)  # two voxels of 0.5 mm
    assert row["rvd"] == 0.0
    assert row["volume_ml_prediction"] == row["volume_ml_reference"] == pytest.approx(0.2)  # 200 voxels of 1 mm³
    assert 0 < row["abd"] < row["hd95"] <= row["hausdorff"]


@pytest.mark.parametrize(
    ("prediction", "reference", "flag", "overlap", "distance", "rvd"),
    [
        (EMPTY, EMPTY, "both empty", 1.0, 0.0, 0.0),
        (EMPTY, BOX, "empty prediction", 0.0, DIAGONAL, -100.0),
        (BOX, EMPTY, "empty reference", 0.0, DIAGONAL, 100.0),
    ],
)
def test_empty_masks(prediction, reference, flag, overlap, distance, rvd):
    row = evaluate_case("case", prediction, reference, SPACING)
    assert (row["flag"], row["dice"], row["iou"], row["rvd"]) == (flag, overlap, overlap, rvd)
    assert [row[key] for key in ("hausdorff", "hd95", "abd")] == pytest.approx([distance] * 3)


def test_errors_name_the_case():
    with pytest.raises(ValueError, match=r"case Case03: .*\(20, 20, 10\).*\(20, 20, 9\)"):
        evaluate_case("Case03", BOX, BOX[..., :9], SPACING)


def test_summary(rows):
    summary = summarise(rows)
    assert (summary["cases"], summary["flagged"]) == (5, 3)
    assert summary["flags"] == {"both empty": 1, "empty prediction": 1, "empty reference": 1}
    assert summary["dice"] == pytest.approx(
        {"mean": 0.56, "sd": math.sqrt(1.072 / 4), "median": 0.8, "min": 0.0, "max": 1.0}
    )
    assert summary["hausdorff"]["mean"] == pytest.approx((0 + DIAGONAL + 1 + DIAGONAL + 0) / 5)
    assert all(math.isfinite(value) for metric in METRICS for value in summary[metric.key].values())


def test_summary_of_one_case_has_no_spread(rows):
    assert summarise(rows[:1])["dice"] == {"mean": 1.0, "sd": 0.0, "median": 1.0, "min": 1.0, "max": 1.0}


def test_summary_refuses_what_has_no_mean(rows):
    with pytest.raises(ValueError, match="at least one"):
        summarise([])
    with pytest.raises(ValueError, match="case shifted: hd95 is nan"):
        summarise([{**rows[2], "hd95": math.nan}])


def test_worst_first(rows):
    assert [row["case_id"] for row in worst_first(rows)] == ["invented", "missed", "shifted", "good", "nothing"]


def test_csv(tmp_path, rows):
    path = tmp_path / "run" / "metrics.csv"
    write_metrics_csv(path, [{**rows[2], "case_id": 'a "quoted", id'}, rows[1]])
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["case_id", *(metric.key for metric in METRICS), "flag"]
    assert [line["case_id"] for line in read] == ['a "quoted", id', "missed"]
    assert float(read[0]["abd"]) == rows[2]["abd"]
    assert read[1]["flag"] == "empty prediction"
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.csv"]


def test_table(rows):
    lines = format_table(rows).splitlines()
    assert lines[0].split()[:2] == ["case", "Dice"]
    assert [line.split()[0] for line in lines[2:7]] == ["invented", "missed", "shifted", "good", "nothing"]
    assert lines[4].split()[1:4] == ["0.8000", "0.6667", "1.00"]
    assert lines[8].split()[:2] == ["mean", "0.5600"]
    assert lines[9].startswith("sd ") and lines[10].startswith("median ")
    assert lines[11].startswith("3 of 5 cases flagged: 1 both empty (counted as Dice 1")
    assert lines[2].endswith("empty reference")
    column = lines[0].index("Dice") + len("Dice")
    assert all(line[column - 1].isdigit() and line[column] == " " for line in (*lines[2:7], *lines[8:11]))


def test_table_without_flags_says_so(rows):
    assert format_table([rows[2]]).splitlines()[-1].startswith("0 of 1 cases flagged")
