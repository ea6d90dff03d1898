"""Pictures of patients: where outlines lie, which files there are, and what the chart's lines say."""

import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from src.report.patients import (
    FRAME_MS,
    GREEN,
    LAST_FRAME_MS,
    RED,
    dsc_png,
    remove_patients,
    slice_pictures,
    write_patient_chart,
    write_patients,
)

SHAPE = (256, 200, 3)  # enlarged twice
GREY = np.random.default_rng(0).uniform(0, 100, SHAPE)


def box(x, y, slices=(1,)):
    mask = np.zeros(SHAPE, np.uint8)
    for z in slices:
        mask[slice(*x), slice(*y), z] = 1
    return mask


def places(picture, colour):
    """(row, column) of the pixels of a colour, as a set."""
    return set(map(tuple, np.argwhere((picture == colour).all(axis=-1))))


def ring(x, y):
    """The pixels of a rectangle's border, x and y from first to last."""
    return {(row, column) for row in range(y[0], y[1] + 1) for column in range(x[0], x[1] + 1)
            if row in y or column in x}


def test_outlines_are_one_pixel_wide_and_beside_each_other():
    mask = box((50, 80), (20, 60))
    plain, picture, _ = slice_pictures(GREY, mask, mask)
    assert picture.shape == (400, 512, 3) and picture.dtype == np.uint8
    assert places(picture, RED) == ring((100, 159), (40, 119))
    assert places(picture, GREEN) == ring((99, 160), (39, 120))
    assert not places(plain, RED) | places(plain, GREEN)


def test_one_mask_alone_and_masks_at_the_border():
    picture = slice_pictures(GREY, box((0, 0), (0, 0)), box((0, 10), (0, 10)))[1]
    assert not places(picture, RED)
    assert places(picture, GREEN) == ring((-1, 20), (-1, 20)) & {(r, c) for r in range(21) for c in range(21)}
    picture = slice_pictures(GREY, box((250, 256), (190, 200)), box((0, 0), (0, 0)))[1]
    assert (380, 505) in places(picture, RED) and (399, 500) in places(picture, RED) and not places(picture, GREEN)


def test_one_pixel_more_hides_no_line():
    picture = slice_pictures(GREY, box((49, 81), (19, 61)), box((50, 80), (20, 60)))[1]
    assert places(picture, GREEN) == ring((99, 160), (39, 120))
    assert places(picture, RED) == ring((98, 161), (38, 121))


def test_small_pictures_are_enlarged_and_grey_runs_from_black_to_white():
    image = np.zeros((64, 64, 1))
    image[16:48, 16:48] = np.linspace(10, 20, 32)[:, None, None]
    empty = np.zeros(image.shape, np.uint8)
    image[0, 0], image[63, 63] = np.nan, 1e6
    picture = slice_pictures(image, empty, empty)[0]
    assert picture.shape == (512, 512, 3)
    assert (picture[..., 0] == picture[..., 1]).all() and (picture[..., 0] == picture[..., 2]).all()
    assert picture[300, 140, 0] < 10 and picture[300, 372, 0] > 245  # x runs to the right
    assert picture[2, 2, 0] == 0 and picture[510, 510, 0] == 255


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="expected one"):
        slice_pictures(GREY[:-1], box((0, 1), (0, 1)), box((0, 1), (0, 1)))
    with pytest.raises(ValueError, match="threshold it first"):
        slice_pictures(GREY, GREY, box((0, 1), (0, 1)))


def test_a_file_a_slice_and_an_animation_of_all(tmp_path):
    mask, reference = box((50, 80), (40, 60), (0, 1)), box((52, 85), (38, 60), (1, 2))
    paths = write_patients(tmp_path, "TCGA_CS_4941", GREY, mask, reference)
    assert [path.name for path in paths] == [*(f"TCGA_CS_4941-{k}.png" for k in (1, 2, 3)), "TCGA_CS_4941.gif"]
    assert {path.parent for path in paths} == {tmp_path / "predictions"}
    pictures = slice_pictures(GREY, mask, reference)
    animation = Image.open(paths[-1])
    assert animation.n_frames == 3 and animation.info["loop"] == 0
    durations = []
    for k, expected in enumerate(pictures):
        written = np.asarray(Image.open(paths[k]).convert("RGB"))
        middle = slice(60, 340)  # caption above, legend below
        assert np.array_equal(written[middle], expected[middle])
        assert (written[:60] != expected[:60]).any() and (written[340:] != expected[340:]).any()
        animation.seek(k)
        durations.append(animation.info["duration"])
        frame = np.asarray(animation.convert("RGB"))[middle]
        for colour in (RED, GREEN):
            assert places(frame, colour) == places(expected[middle], colour)
        assert np.abs(frame.astype(int) - expected[middle]).max() <= 4  # 192 shades of grey
    assert durations == [FRAME_MS, FRAME_MS, LAST_FRAME_MS]


ROWS = [{"case_id": name, "dice": dice} for name, dice in (("A", 0.9), ("B", 0.2), ("C", 0.7))]


def test_chart_has_a_bar_a_patient_and_lines_at_mean_and_median(monkeypatch):
    lines, bars = [], []
    draw_line, draw_bars = Axes.axvline, Axes.barh
    monkeypatch.setattr(Axes, "axvline", lambda self, x, **kw: (lines.append((x, kw)), draw_line(self, x, **kw))[1])
    monkeypatch.setattr(Axes, "barh", lambda self, y, w, **kw: (bars.extend(w), draw_bars(self, y, w, **kw))[1])
    picture = np.asarray(Image.open(io.BytesIO(dsc_png(ROWS))).convert("RGB")).astype(int)
    assert bars == [0.2, 0.7, 0.9]  # from the bottom
    assert [(pytest.approx(x), kw["label"]) for x, kw in lines] == [(0.6, "mean 0.6000"), (0.7, "median 0.7000")]
    red, green = ((picture[..., a] > 140) & (picture[..., b] < 90) for a, b in ((0, 1), (1, 0)))
    columns = [np.flatnonzero(colour.sum(axis=0) > picture.shape[0] / 2).mean() for colour in (red, green)]
    assert columns[0] < columns[1]
    assert dsc_png(ROWS) == dsc_png(ROWS)


def test_both_lines_can_be_seen_where_they_are_equal():
    """As they always are with two patients."""
    picture = np.asarray(Image.open(io.BytesIO(dsc_png(ROWS[:2]))).convert("RGB")).astype(int)
    for a, b in ((0, 1), (1, 0)):
        coloured = (picture[..., a] > 140) & (picture[..., b] < 90)
        assert (coloured.sum(axis=0) > picture.shape[0] / 2).any()


@pytest.mark.parametrize(("rows", "message"), [
    ([], "no patient"), ([{"case_id": "A", "dice": np.nan}], "case A: dice is nan"),
    ([{"case_id": "B", "dice": 1.5}], "case B: dice is 1.5")])
def test_chart_of_nothing(rows, message):
    with pytest.raises(ValueError, match=message):
        dsc_png(rows)


def test_pictures_of_other_patients_go_and_nothing_else(tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    for name in ("A-1.png", "A.gif", "TCGA-2_X-11.png", "TCGA-2_X.gif", "mine.png", "notes.txt"):
        (folder / name).touch()
    write_patient_chart(tmp_path, ROWS)
    assert sorted(path.name for path in folder.iterdir()) == ["A-1.png", "A.gif", "mine.png", "notes.txt"]
    assert (tmp_path / "dsc.png").read_bytes() == dsc_png(ROWS)
    remove_patients(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["mine.png", "notes.txt"]
    for name in ("mine.png", "notes.txt"):
        (folder / name).unlink()
    remove_patients(tmp_path)
    remove_patients(tmp_path)
    assert list(tmp_path.iterdir()) == []
