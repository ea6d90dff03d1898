import numpy as np
import pytest

from src.metrics.overlap import dice, iou, relative_volume_difference


def box(start, stop, shape=(10, 8, 6)):
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return mask


EMPTY = np.zeros((10, 8, 6), dtype=np.uint8)
BOX = box((2, 2, 2), (6, 6, 4))  # 32 voxels
SHIFTED = box((3, 2, 2), (7, 6, 4))  # 32 voxels, 24 of them common
HALF = box((2, 2, 2), (4, 6, 4))  # 16 voxels, all common
FAR = box((8, 2, 2), (10, 6, 4))


@pytest.mark.parametrize(
    ("prediction", "reference", "expected_dice", "expected_iou", "expected_rvd"),
    [
        (BOX, BOX, 1.0, 1.0, 0.0),
        (SHIFTED, BOX, 48 / 64, 24 / 40, 0.0),
        (HALF, BOX, 32 / 48, 16 / 32, -50.0),
        (BOX, HALF, 32 / 48, 16 / 32, 100.0),
        (FAR, BOX, 0.0, 0.0, -50.0),
        (EMPTY, EMPTY, 1.0, 1.0, 0.0),
        (EMPTY, BOX, 0.0, 0.0, -100.0),
        (BOX, EMPTY, 0.0, 0.0, 100.0),
    ],
)
def test_hand_computed(prediction, reference, expected_dice, expected_iou, expected_rvd):
    assert dice(prediction, reference) == pytest.approx(expected_dice, abs=1e-15)
    assert iou(prediction, reference) == pytest.approx(expected_iou, abs=1e-15)
    assert relative_volume_difference(prediction, reference) == pytest.approx(expected_rvd, abs=1e-12)


def test_any_non_zero_whole_number_is_foreground():
    assert dice(BOX.astype(bool), (BOX * 255).astype(np.int16)) == 1.0
    assert dice(BOX.astype(np.float32), BOX * 2) == 1.0


@pytest.mark.parametrize("metric", [dice, iou, relative_volume_difference])
def test_shapes_that_differ_are_named(metric):
    with pytest.raises(ValueError, match=r"\(10, 8, 6\).*\(10, 8, 5\)"):
        metric(BOX, BOX[..., :5])


@pytest.mark.parametrize("bad", [0.5, np.nan])
def test_a_probability_is_no_mask(bad):
    with pytest.raises(ValueError, match="the prediction holds fractions or NaN"):
        dice(BOX * np.float32(bad), BOX)


def test_many_voxels_do_not_overflow():
    ones = np.ones((300, 300, 300), dtype=np.uint8)
    assert dice(ones, ones) == 1.0
