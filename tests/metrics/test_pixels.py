"""Pixel metrics, every value worked out by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from src.metrics.pixels import (
    COUNTS,
    FLAGS,
    KEYS,
    area_under_curve,
    format_pixels,
    pixel_metrics,
    remove_pixel_tables,
    summarise_pixels,
    write_pixel_tables,
)

# Ten pixels: 3 hits, 1 wrong, 2 missed, 4 rightly left.
MASK = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], np.uint8).reshape(5, 2, 1)
REFERENCE = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], np.uint8).reshape(5, 2, 1)
PROBABILITY = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.4, 0.3, 0.2, 0.1], np.float32).reshape(5, 2, 1)


def test_values_by_hand():
    row = pixel_metrics(PROBABILITY, MASK, REFERENCE)
    expected = {"iou_background": 4 / 7, "iou_vessel": 3 / 6, "miou": (4 / 7 + 1 / 2) / 2,
                "recall_background": 4 / 5, "recall_vessel": 3 / 5,
                "precision_background": 4 / 6, "precision_vessel": 3 / 4,
                "accuracy": 7 / 10, "dice": 6 / 9, "sensitivity": 3 / 5, "specificity": 4 / 5,
                # 25 pairs: 0.9, 0.8, 0.7 win 5 each; 0.5 loses to 0.6: 4; 0.4 loses to 0.6, ties with 0.4: 3.5.
                "auc": 22.5 / 25}
    assert set(expected) == set(KEYS)
    assert {key: row[key] for key in KEYS} == pytest.approx(expected, abs=1e-15)
    assert [row[key] for key in COUNTS] == [3, 1, 2, 4]
    assert row["flag"] == ""


def test_only_the_region_counts():
    region = np.ones(MASK.shape, bool)
    region.reshape(-1)[[3, 8, 9]] = False  # the wrong one, and two rightly left
    row = pixel_metrics(PROBABILITY, MASK, REFERENCE, region)
    assert [row[key] for key in COUNTS] == [3, 0, 2, 2]
    assert (row["precision_vessel"], row["recall_background"]) == (1, 1)
    assert row["auc"] == pytest.approx(9.5 / 10)
    disturbed = np.where(region, PROBABILITY, np.nan)  # what lies outside is not even looked at
    assert pixel_metrics(disturbed, np.where(region, MASK, 1 - MASK), REFERENCE, region) == row


@pytest.mark.parametrize(("mask", "reference", "expected"), [
    (0, 0, {"iou_vessel": 1, "recall_vessel": 1, "precision_vessel": 1, "dice": 1, "iou_background": 1, "miou": 1}),
    (1, 0, {"iou_vessel": 0, "recall_vessel": 0, "precision_vessel": 0, "dice": 0, "iou_background": 0,
            "precision_background": 0, "recall_background": 0}),
    (0, 1, {"iou_vessel": 0, "recall_vessel": 0, "precision_vessel": 0, "dice": 0, "recall_background": 0}),
    (1, 1, {"iou_background": 1, "recall_background": 1, "precision_background": 1, "iou_vessel": 1}),
])
def test_pictures_of_one_class(mask, reference, expected):
    shape = (3, 2, 1)
    row = pixel_metrics(np.full(shape, 0.5), np.full(shape, mask), np.full(shape, reference))
    assert {key: row[key] for key in expected} == expected
    assert row["auc"] == 0.5
    assert row["flag"] == list(FLAGS)[reference]
    assert all(np.isfinite(row[key]) for key in KEYS)


def test_area_under_the_curve_equals_counting_pairs():
    rng = np.random.default_rng(3)
    score, positive = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.4
    difference = score[positive][:, None] - score[~positive][None]
    assert area_under_curve(score, positive) == pytest.approx(np.mean((difference > 0) + 0.5 * (difference == 0)),
                                                              abs=1e-15)
    assert area_under_curve(np.exp(score), positive) == area_under_curve(score, positive)  # only order counts
    assert area_under_curve(-score, positive) == pytest.approx(1 - area_under_curve(score, positive))
    assert area_under_curve(np.zeros(4), np.array([True, False, False, True])) == 0.5


@pytest.mark.parametrize(("changes", "message"), [
    ({"probability": PROBABILITY[:4]}, r"the probability has shape \(4, 2, 1\)"),
    ({"region": np.ones((2, 2, 1), bool)}, r"the region has shape \(2, 2, 1\)"),
    ({"region": np.zeros(MASK.shape, bool)}, "the region is empty"),
    ({"mask": PROBABILITY}, "threshold it first"),
    ({"probability": PROBABILITY * np.nan}, "not finite in 10 of 10 pixels"),
])
def test_what_does_not_fit_is_refused(changes, message):
    given = {"probability": PROBABILITY, "mask": MASK, "reference": REFERENCE, "region": None} | changes
    with pytest.raises(ValueError, match=message):
        pixel_metrics(**given)


ROWS = [{"case_id": "21_training", **pixel_metrics(PROBABILITY, MASK, REFERENCE)},
        {"case_id": "22_training", **pixel_metrics(PROBABILITY, np.zeros_like(MASK), np.zeros_like(MASK))}]


def test_summary_over_cases_and_over_all_pixels():
    summary = summarise_pixels(ROWS)
    assert (summary["cases"], summary["flagged"]) == (2, 1)
    assert summary["iou_vessel"]["mean"] == pytest.approx((0.5 + 1) / 2)
    assert summary["counts"] == dict(zip(COUNTS, (3, 1, 2, 14), strict=True))
    assert summary["pooled"]["iou_vessel"] == pytest.approx(3 / 6)
    assert summary["pooled"]["iou_background"] == pytest.approx(14 / 17)
    assert summary["pooled"]["accuracy"] == pytest.approx(17 / 20)
    with pytest.raises(ValueError, match="no case"):
        summarise_pixels([])


def test_tables_on_disk_and_in_the_log(tmp_path, caplog):
    caplog.set_level("INFO")
    summary = write_pixel_tables(tmp_path, [{**row, "fold": 2} for row in ROWS])
    table = pd.read_csv(tmp_path / "pixels.csv", float_precision="round_trip")
    assert list(table) == ["case_id", "fold", *KEYS, *COUNTS, "flag"]
    assert table["auc"].tolist() == [ROWS[0]["auc"], 0.5]
    assert json.loads((tmp_path / "pixels.json").read_text()) == summary
    text = format_pixels(summary).splitlines()
    assert text[0].split() == ["pixels", "IoU", "Recall", "Precision"]
    assert text[2].split() == ["background", "0.7857", "0.9000", "0.8333"]
    assert text[3].split() == ["vessel", "0.7500", "0.8000", "0.8750"]
    assert text[5].split() == ["mean", "0.7679", "0.8500", "0.8542"]
    assert text[6].startswith("means over 2 cases: mIoU 0.7679, Accuracy 0.8500, Dice 0.8333, AUC 0.7000")
    assert text[7].startswith("no vessel in the reference in 1 (AUC counted as 0.5")
    assert "\n".join(text) in caplog.text
    remove_pixel_tables(tmp_path)
    remove_pixel_tables(tmp_path)
    assert list(tmp_path.iterdir()) == []
