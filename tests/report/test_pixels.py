"""Charts of pixel metrics and losses: what is drawn has the right height."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from PIL import Image

from src.metrics.pixels import pixel_metrics, summarise_pixels
from src.report.pixels import pixel_charts, remove_pixels, training_loss_png, write_pixels


def row(case_id, seed):
    rng = np.random.default_rng(seed)
    reference = rng.random((20, 20, 1)) < 0.2
    probability = np.clip(0.5 * reference + rng.normal(0.3, 0.2, reference.shape), 0, 1)
    return {"case_id": case_id, **pixel_metrics(probability, probability > 0.5, reference)}


ROWS = [row("01_test", 1), row("02_test", 2)]


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: heights of bars, ends of thin lines, points of curves."""
    seen = {"bar": [], "vlines": [], "plot": []}
    for name in seen:
        original = getattr(Axes, name)

        def spy(self, *args, _name=name, _original=original, **kw):
            seen[_name].append(args)
            return _original(self, *args, **kw)

        monkeypatch.setattr(Axes, name, spy)
    return seen


def test_bars_are_the_means_and_lines_the_extremes(drawn):
    summary = summarise_pixels(ROWS)
    picture = Image.open(io.BytesIO(pixel_charts(ROWS)))
    assert picture.size == (2400, 680)
    heights = [list(args[1]) for args in drawn["bar"]]
    assert heights[:3] == [[summary[f"{ratio}_{name}"]["mean"] for name in ("background", "vessel")]
                           for ratio in ("iou", "recall", "precision")]
    assert heights[3] == [summary[key]["mean"] for key in ("accuracy", "dice", "auc", "sensitivity", "specificity")]
    assert drawn["vlines"][1][1:] == (summary["iou_vessel"]["min"], summary["iou_vessel"]["max"])
    assert len(drawn["vlines"]) == 11


def test_one_case_has_no_range(drawn):
    pixel_charts(ROWS[:1])
    assert drawn["vlines"] == []
    with pytest.raises(ValueError, match="no case"):
        pixel_charts([])


def test_what_is_written_is_removed(tmp_path):
    summary = write_pixels(tmp_path, ROWS)
    assert summary == summarise_pixels(ROWS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pixels.csv", "pixels.json", "pixels.png"]
    assert (tmp_path / "pixels.png").read_bytes() == pixel_charts(ROWS)
    remove_pixels(tmp_path)
    remove_pixels(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_losses_over_epochs(drawn):
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss": [0.9, 0.5, np.inf], "val_loss": [np.nan, 0.6, 0.4]})
    assert Image.open(io.BytesIO(training_loss_png(history))).size == (1400, 800)
    assert [(list(x), list(y)) for x, y, *_ in drawn["plot"]] == [([1, 2], [0.9, 0.5]), ([2, 3], [0.6, 0.4])]
    drawn["plot"].clear()
    training_loss_png(history.drop(columns="val_loss"))
    assert len(drawn["plot"]) == 1
    for nothing in (history.iloc[:0], history.assign(loss=np.nan), history.drop(columns="loss")):
        with pytest.raises(ValueError, match="no values for loss"):
            training_loss_png(nothing)
