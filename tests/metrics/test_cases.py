import csv
import math

import numpy as np
import pytest

from src.metrics.cases import (
    METRICS,
    class_metrics,
    classes_of,
    evaluate_case,
    flag_note,
    format_table,
    read_rows,
    summarise,
    worst_first,
    write_metrics_csv,
)

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


def test_binary_tables_keep_their_bytes(tmp_path, rows):
    lines = format_table([rows[2]]).splitlines()
    assert lines[:3] == [
        "case       Dice     IoU  Hausdorff [mm]  HD95 [mm]  ABD [mm]  RVD [%]  Predicted [ml]  Reference [ml]  flag",
        "-" * 107,
        "shifted  0.8000  0.6667            1.00       1.00      0.15      0.0            0.20            0.20",
    ]
    assert len(lines) == 8 and class_metrics(2) == () and classes_of([rows[2]]) == 2
    write_metrics_csv(tmp_path / "metrics.csv", [rows[0]])
    assert (tmp_path / "metrics.csv").read_bytes() == (
        b"case_id,dice,iou,hausdorff,hd95,abd,rvd,volume_ml_prediction,volume_ml_reference,flag\n"
        b"good,1.0,1.0,0.0,0.0,0.0,0.0,0.2,0.2,\n")


# Class 1: 10 x 10 x 2 voxels; class 2: 4 x 10 x 2 beside it. The prediction gives two columns of class 1 to class 2.
TWO = BOX + 2 * box((14, 4, 4), (18, 14, 6))
TWO_PREDICTED = box((4, 4, 4), (12, 14, 6)) + 2 * box((12, 4, 4), (18, 14, 6))


@pytest.fixture
def class_rows():
    return [evaluate_case("Case1", TWO_PREDICTED, TWO, SPACING, 3), evaluate_case("Case2", BOX, BOX, SPACING, 3),
            evaluate_case("Case3", BOX, TWO, SPACING, 3), evaluate_case("Case4", EMPTY, BOX, SPACING, 3)]


def test_row_of_three_classes(class_rows):
    row = class_rows[0]
    assert list(row) == ["case_id", *(metric.key for metric in METRICS), "dice_mean", "dice_1", "hd95_1", "abd_1",
                         "dice_2", "hd95_2", "abd_2", "flag"]
    assert row["dice"] == row["iou"] == 1.0 and row["hausdorff"] == 0.0, "the foreground as one"
    assert row["dice_1"] == pytest.approx(2 * 160 / (160 + 200))
    assert row["dice_2"] == pytest.approx(2 * 80 / (80 + 120))
    assert row["dice_mean"] == pytest.approx((320 / 360 + 160 / 200) / 2)
    assert row["hd95_1"] == row["hd95_2"] == pytest.approx(1.0)  # two voxels of 0.5 mm
    assert 0 < row["abd_1"] < 1 and row["flag"] == ""


def test_a_class_alone_counts_like_a_mask_of_its_own(class_rows):
    alone = evaluate_case("Case1", TWO_PREDICTED == 2, TWO == 2, SPACING)
    assert [class_rows[0][f"{key}_2"] for key in ("dice", "hd95", "abd")] == [
        alone[key] for key in ("dice", "hd95", "abd")]


def test_absent_classes_are_flagged_with_finite_numbers(class_rows):
    _, absent, missed, all_missed = class_rows
    assert (absent["flag"], absent["dice_2"], absent["hd95_2"], absent["abd_2"]) == ("class 2: both empty", 1, 0, 0)
    assert (missed["flag"], missed["dice_2"], missed["hd95_2"]) == ("class 2: empty prediction", 0,
                                                                   pytest.approx(DIAGONAL))
    # The whole's flag says that class 1 is missing as well.
    assert all_missed["flag"] == "empty prediction; class 2: both empty"
    invented = evaluate_case("case", TWO, BOX, SPACING, 3)
    assert (invented["flag"], invented["dice_2"]) == ("class 2: empty reference", 0)
    assert evaluate_case("case", EMPTY, EMPTY, SPACING, 3)["flag"] == "both empty"


def test_summary_and_flags_of_classes(class_rows):
    summary = summarise(class_rows)
    assert (summary["cases"], summary["flagged"]) == (4, 3)
    assert summary["flags"] == {"class 2: both empty": 2, "class 2: empty prediction": 1, "empty prediction": 1}
    assert summary["dice_2"]["mean"] == pytest.approx((0.8 + 1 + 0 + 1) / 4)
    assert summary["dice_mean"]["median"] == pytest.approx(np.median([(320 / 360 + 0.8) / 2, 1, 0.5, 0.5]))
    assert flag_note(summary) == (
        "3 of 4 cases flagged: class 2: both empty in 2 (counted as Dice 1 and distances 0); class 2: empty prediction "
        "in 1 (counted as Dice 0, distances = the image's diagonal); 1 empty prediction (counted as Dice 0, distances "
        "= the image's diagonal, RVD -100 %).")


def test_table_of_classes_follows_that_of_the_foreground(class_rows):
    blocks = format_table(class_rows).split("\n\n")
    assert len(blocks) == 2
    assert blocks[0].splitlines()[0].split()[:3] == ["case", "Dice", "IoU"]
    lines = blocks[1].splitlines()
    assert lines[0].split() == ["case", "Mean", "Dice", "Dice", "1", "HD95", "1", "[mm]", "ABD", "1", "[mm]", "Dice",
                                "2", "HD95", "2", "[mm]", "ABD", "2", "[mm]"]
    assert [line.split()[0] for line in lines[2:6]] == ["Case4", "Case3", "Case1", "Case2"], "worst mean Dice first"
    assert lines[4].split()[1:3] == ["0.8444", "0.8889"]
    assert lines[-1].startswith("3 of 4 cases flagged")


def test_rows_are_read_back_exactly(tmp_path, class_rows):
    rows = [{**row, "case_id": name, "fold": 3} for row, name in zip(class_rows, ("007", "NA", "a,b", ""), strict=True)]
    write_metrics_csv(tmp_path / "metrics.csv", rows, ["fold"])
    assert read_rows(tmp_path / "metrics.csv") == rows
    assert list(read_rows(tmp_path / "metrics.csv")[0])[:3] == ["case_id", "fold", "dice"]
    assert classes_of(read_rows(tmp_path / "metrics.csv")) == 3
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns a, b, expected case_id"):
        read_rows(tmp_path / "other.csv")


@pytest.mark.parametrize(("prediction", "reference", "message"), [
    (TWO, 2 * TWO, "case Case3: the reference holds 4, expected classes 0 to 2"),
    (TWO.astype(np.int16) - 1, TWO, "the prediction holds -1, expected classes 0 to 2"),
    (TWO * 0.25, TWO, "holds fractions"),
])  # fmt: skip
def test_other_classes_are_refused(prediction, reference, message):
    with pytest.raises(ValueError, match=message):
        evaluate_case("Case3", prediction, reference, SPACING, 3)
