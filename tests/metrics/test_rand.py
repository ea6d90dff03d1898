"""Rand error of cells, worked out by hand and by counting pairs of pixels."""

import json

import numpy as np
import pandas as pd
import pytest

from src.metrics.rand import KEYS, THRESHOLDS, cells, format_rand, rand_error, rand_metrics, remove_rand, write_rand

# Two true cells of 4 and 3 pixels in a row, a membrane pixel between them.
REFERENCE = np.array([1, 1, 1, 1, 0, 1, 1, 1], np.uint8).reshape(8, 1, 1)


def row_of(*values):
    return np.array(values).reshape(8, 1, 1)


@pytest.mark.parametrize(("mask", "split", "merge"), [
    (row_of(1, 1, 1, 1, 0, 1, 1, 1), 25 / 25, 25 / 25),
    (row_of(1, 1, 1, 1, 1, 1, 1, 1), 25 / 25, 25 / 49),  # merged: one cell of 7 true pixels
    (row_of(1, 1, 0, 1, 0, 1, 1, 1), (4 + 1 + 1 + 9) / 25, 15 / 15),  # split by a pixel that is a cell of its own
    (row_of(0, 0, 0, 0, 0, 0, 0, 0), 7 / 25, 7 / 7),  # every pixel alone
    (row_of(0, 0, 0, 0, 1, 0, 0, 0), 7 / 25, 7 / 7),  # true membrane does not count
    (row_of(1, 1, 1, 0, 1, 1, 0, 1), (9 + 1 + 1 + 1 + 1) / 25, 13 / 13),
    (row_of(0, 1, 1, 1, 1, 1, 1, 1), (1 + 9 + 9) / 25, 19 / (1 + 36)),
])
def test_scores_by_hand(mask, split, merge):
    score = rand_error(mask, REFERENCE)
    assert (score.split, score.merge) == pytest.approx((split, merge), abs=1e-15)
    assert score.error == pytest.approx(1 - 2 * split * merge / (split + merge), abs=1e-15)  # harmonic mean of both


def test_error_is_that_of_pairs_of_pixels():
    rng = np.random.default_rng(5)
    mask, reference = (rng.random((12, 11, 2)) < 0.6 for _ in range(2))
    s, t = cells(mask)[reference], cells(reference)[reference]
    s = np.where(s == 0, -np.arange(1, s.size + 1), s)  # each a number of its own
    same_s, same_t = s[:, None] == s[None], t[:, None] == t[None]
    score = rand_error(mask, reference)
    assert score.split == pytest.approx((same_s & same_t).sum() / same_t.sum())
    assert score.merge == pytest.approx((same_s & same_t).sum() / same_s.sum())
    assert score.error == pytest.approx(1 - 2 * (same_s & same_t).sum() / (same_s.sum() + same_t.sum()))


def test_cells_are_connected_through_edges_within_a_slice():
    mask = np.zeros((3, 3, 2), np.uint8)
    mask[0, 0], mask[1, 1] = 1, 1  # two pixels that touch at a corner, above one another in both slices
    assert cells(mask).max() == 4
    mask[0, 1] = 1
    assert cells(mask).max() == 2


def test_only_the_region_counts():
    region = row_of(*[True] * 4, *[False] * 4)
    assert rand_error(row_of(*[1] * 8), REFERENCE, region).error == 0
    assert rand_error(row_of(1, 1, 0, 1, 1, 1, 1, 1), REFERENCE, region).split == pytest.approx(6 / 16)


def test_no_true_cell():
    score = rand_error(REFERENCE, np.zeros_like(REFERENCE))
    assert (score.error, score.split, score.merge) == (0, 1, 1)
    row = rand_metrics(REFERENCE * 1.0, REFERENCE, np.zeros_like(REFERENCE))
    assert row["flag"] == "no true cell" and row["rand_error"] == 0


PROBABILITY = row_of(0.9, 0.9, 0.65, 0.9, 0.35, 0.9, 0.9, 0.9)


def test_thresholds():
    row = rand_metrics(PROBABILITY, (PROBABILITY > 0.5).astype(np.uint8), REFERENCE)
    merged, split = 1 - 50 / (49 + 25), 1 - 30 / (15 + 25)
    assert row["rand_error"] == 0
    assert [row[key] for key in THRESHOLDS] == pytest.approx(
        [merged, merged, merged, 0, 0, 0, split, split, 1 - 14 / (7 + 25)])
    assert list(THRESHOLDS)[0] == "rand_error_0.1"


@pytest.mark.parametrize(("mask", "region", "message"), [
    (REFERENCE[:7], None, "the prediction has shape"), (PROBABILITY, None, "threshold it first"),
    (REFERENCE, np.ones((7, 1, 1), bool), "the region has shape")])
def test_what_does_not_fit_is_refused(mask, region, message):
    with pytest.raises(ValueError, match=message):
        rand_error(mask, REFERENCE, region)


def test_tables_on_disk_and_in_the_log(tmp_path, caplog):
    caplog.set_level("INFO")
    merged = row_of(*[1] * 8)
    rows = [{"case_id": "train-volume.tif:01", **rand_metrics(PROBABILITY, REFERENCE, REFERENCE)},
            {"case_id": "train-volume.tif:02", **rand_metrics(PROBABILITY, merged, REFERENCE)}]
    summary = write_rand(tmp_path, rows)
    assert summary["rand_error"]["mean"] == pytest.approx((1 - 50 / 74) / 2)
    assert summary["best"] == {"threshold": 0.4, "rand_error": 0.0}
    table = pd.read_csv(tmp_path / "rand.csv", float_precision="round_trip")
    assert list(table) == ["case_id", *KEYS, *THRESHOLDS, "flag"]
    assert table["rand_error"].tolist() == [row["rand_error"] for row in rows]
    assert json.loads((tmp_path / "rand.json").read_text()) == summary
    assert "best over thresholds: mean Rand error 0.0000 at 0.4" in format_rand(summary)
    assert format_rand(summary) in caplog.text
    with pytest.raises(ValueError, match="no case"):
        write_rand(tmp_path, [])
    remove_rand(tmp_path)
    remove_rand(tmp_path)
    assert list(tmp_path.iterdir()) == []
