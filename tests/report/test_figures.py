import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.report.figures import PANEL_GAP, PANEL_WIDTH, available_curves, curves_png, overlay_array, overlay_png

# One 30x30 plane fills a panel of 300 pixels: ten pixels a voxel, voxel i covers [10 i, 10 i + 10).
SHAPE = (30, 30, 6)
PIXELS = PANEL_WIDTH // 30


def box(start, stop, shape=SHAPE):
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return mask


def is_red(pixel):
    return pixel[0] > 150 and pixel[1] < 110 and pixel[2] < 110


def is_green(pixel):
    return pixel[1] > 150 and pixel[0] < 110 and pixel[2] < 140


def is_grey(pixel):
    return max(pixel) - min(pixel) <= 2


GREY = np.full(SHAPE, 100.0)
# Large enough for the crop to show the whole plane (1.9 x 16 > 30).
REFERENCE = box((6, 7, 1), (22, 23, 5))
PREDICTION = box((9, 7, 1), (25, 23, 5))


def vertical_edge(picture, edge, row=15):
    """Pixel on the border between voxel columns edge - 1 and edge, at the height of voxel `row`'s centre."""
    return picture[row * PIXELS + PIXELS // 2, edge * PIXELS]


def test_outlines_lie_on_the_voxel_borders():
    picture = overlay_array(GREY, PREDICTION, REFERENCE, slices=[2])
    assert picture.shape == (300, 300, 3) and picture.dtype == np.uint8
    assert is_green(vertical_edge(picture, 6)) and is_green(vertical_edge(picture, 22))
    assert is_red(vertical_edge(picture, 9)) and is_red(vertical_edge(picture, 25))
    for edge in (3, 7, 15, 20, 28):
        assert is_grey(vertical_edge(picture, edge))
    # Both masks share their upper and lower border: red on top, green beside it.
    shared = picture[:, 15 * PIXELS + PIXELS // 2]
    for border in (7, 23):
        assert is_red(shared[border * PIXELS])
        assert any(int(pixel[1]) > int(pixel[0]) + 50 for pixel in shared[border * PIXELS - 3 : border * PIXELS])


def test_y_runs_down():
    picture = overlay_array(GREY, None, box((6, 3, 1), (22, 20, 5)), slices=[2])
    column = picture[:, 15 * PIXELS]
    assert is_green(column[3 * PIXELS]) and is_green(column[20 * PIXELS])
    assert not is_green(column[26 * PIXELS])


def test_one_mask_or_none():
    def colours(*masks):
        return np.unique(overlay_array(GREY, *masks, slices=[2]).reshape(-1, 3), axis=0)

    assert any(map(is_red, colours(PREDICTION, None))) and not any(map(is_green, colours(PREDICTION, None)))
    assert any(map(is_green, colours(None, REFERENCE))) and not any(map(is_red, colours(None, REFERENCE)))
    assert all(map(is_grey, colours(None, None)))


def test_slices_without_outline_are_plain():
    picture = overlay_array(GREY, PREDICTION, REFERENCE, slices=[0])
    assert all(map(is_grey, np.unique(picture.reshape(-1, 3), axis=0)))


def test_mask_at_the_border_is_outlined():
    full = np.ones(SHAPE, dtype=np.uint8)
    picture = overlay_array(GREY, full, None, slices=[2])
    for pixel in (picture[150, 0], picture[150, -1], picture[0, 150], picture[-1, 150]):
        assert is_red(pixel)


def test_panels_in_rows_with_gaps():
    two_rows = overlay_array(GREY, PREDICTION, REFERENCE, slices=[1, 2, 3, 4, 5], columns=3)
    assert two_rows.shape == (2 * 300 + PANEL_GAP, 3 * 300 + 2 * PANEL_GAP, 3)
    for panel in range(3):
        left = panel * (300 + PANEL_GAP)
        assert is_green(two_rows[155, left + 6 * PIXELS]), "row 1"
        below = two_rows[300 + PANEL_GAP + 155, left + 6 * PIXELS]
        assert is_green(below) == (panel == 0), "row 2: z 4, z 5 with empty masks, nothing"


def test_aspect_ratio_is_that_of_the_voxels():
    assert overlay_array(GREY, spacing=(1.0, 0.5, 3.0), slices=[2]).shape == (150, 300, 3)
    assert overlay_array(GREY, spacing=(0.5, 1.0, 3.0), slices=[2]).shape == (600, 300, 3)
    assert overlay_array(GREY, spacing=(0.25, 1.0, 3.0), slices=[2]).shape == (600, 150, 3)


def test_each_class_has_a_colour_of_its_own():
    # Class 1 in x 6 to 12, class 2 from there to 22, in the reference; the prediction's classes end at 10 and 18.
    reference = box((6, 7, 1), (12, 23, 5)) + 2 * box((12, 7, 1), (22, 23, 5))
    prediction = box((8, 7, 1), (10, 23, 5)) + 2 * box((10, 7, 1), (18, 23, 5))
    picture = overlay_array(GREY, None, reference, slices=[2])
    assert is_green(vertical_edge(picture, 6))
    assert vertical_edge(picture, 22) == pytest.approx((0x22, 0xC3, 0xE6), abs=40), "class 2 is cyan"
    picture = overlay_array(GREY, prediction, None, slices=[2])
    assert is_red(vertical_edge(picture, 8))
    assert vertical_edge(picture, 18) == pytest.approx((0xFF, 0xA3, 0x1A), abs=40), "class 2 is orange"
    # The border between two classes is drawn by both, the higher class on top.
    assert vertical_edge(picture, 10) == pytest.approx((0xFF, 0xA3, 0x1A), abs=40)
    assert is_grey(vertical_edge(picture, 14))


def test_class_2_alone_keeps_its_colour():
    picture = overlay_array(GREY, 2 * box((6, 7, 1), (22, 23, 5)), None, slices=[2])
    assert vertical_edge(picture, 6) == pytest.approx((0xFF, 0xA3, 0x1A), abs=40)


def test_png_shows_the_same_picture():
    png = overlay_png(GREY, PREDICTION, REFERENCE, spacing=(1, 1, 3), columns=4)
    decoded = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert np.array_equal(decoded, overlay_array(GREY, PREDICTION, REFERENCE, spacing=(1, 1, 3), columns=4))
    assert png == overlay_png(GREY, PREDICTION, REFERENCE, spacing=(1, 1, 3), columns=4)


def test_nan_in_an_image_is_shown():
    image = GREY.copy()
    image[0, 0] = np.nan
    assert overlay_array(image, slices=[1]).shape == (300, 300, 3)


@pytest.mark.parametrize("slices", [[6], [-1], []])
def test_slices_that_do_not_exist(slices):
    with pytest.raises(ValueError, match="slices 0 to 5"):
        overlay_array(GREY, slices=slices)


@pytest.fixture
def history():
    return pd.DataFrame(
        {"epoch": [1, 2, 3, 4], "step": [5, 10, 15, 20], "loss": [0.9, 0.5, np.inf, 0.3],
         "lr": [1e-4, 5e-4, 3e-4, 0.0], "seconds": [2.0] * 4, "val_dice": [np.nan, 0.6, np.nan, 0.8]}
    )  # fmt: skip


def test_curves(history):
    assert available_curves(history) == ["loss", "val_dice", "lr"]
    picture = Image.open(io.BytesIO(curves_png(history)))
    assert picture.size == (3 * 880, 580)
    assert picture.mode == "RGBA" and picture.getpixel((1, 1))[3] == 0
    assert Image.open(io.BytesIO(curves_png(history, ["loss"]))).size == (880, 580)


def test_curves_of_a_dark_page_are_light(history):
    def ink(dark):
        pixels = np.asarray(Image.open(io.BytesIO(curves_png(history, ["loss"], dark=dark)))).reshape(-1, 4)
        text = pixels[(pixels[:, 3] == 255) & (np.ptp(pixels[:, :3].astype(int), axis=1) < 30)]
        return text[:, :3]

    assert (ink(True) >= 190).all(axis=1).any() and (ink(False) <= 90).all(axis=1).any()
    assert not (ink(True) <= 30).all(axis=1).any()


def test_curves_without_validation(history):
    assert available_curves(history.drop(columns="val_dice")) == ["loss", "lr"]
    assert available_curves(history.assign(val_dice=np.nan)) == ["loss", "lr"]
    with pytest.raises(ValueError, match="no values for val_dice"):
        curves_png(history.assign(val_dice=np.nan), ["val_dice"])
    with pytest.raises(ValueError, match="no values"):
        curves_png(history.iloc[:0])


def test_curves_of_pictures_show_their_validation_loss(history):
    whole = history.assign(val_loss=history["loss"] + 0.1)
    assert available_curves(whole) == ["loss", "val_loss", "val_dice", "lr"]
    assert Image.open(io.BytesIO(curves_png(whole))).size == (4 * 880, 580)


def test_curve_of_one_epoch(history):
    assert Image.open(io.BytesIO(curves_png(history.iloc[1:2]))).size == (3 * 880, 580)
