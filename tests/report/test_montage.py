import numpy as np
import pytest

from src.report.montage import IDENTITY, choose_slices, crop_window, grey_window, make_view

SHAPE = (30, 20, 12)


def box(start, stop, shape=SHAPE):
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return mask


def view(prediction=None, reference=None, spacing=(1.0, 1.0, 1.0), direction=IDENTITY, shape=SHAPE):
    image = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    return make_view(image, prediction, reference, spacing, direction)


@pytest.mark.parametrize(
    ("direction", "corner", "spacing"),
    [
        # `corner`: array index shown at the upper left of the first panel's slice 0; LPS directions.
        (IDENTITY, (0, 0, 0), (1, 2, 3)),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), (29, 19, 0), (1, 2, 3)),  # NIfTI's usual RAS: both in-plane axes turn
        ((0, 1, 0, 1, 0, 0, 0, 0, 1), (0, 0, 0), (2, 1, 3)),  # x runs to the back: columns become rows
        ((1, 0, 0, 0, 0, 1, 0, 1, 0), (0, 19, 0), (1, 2, 3)),  # coronal, y towards the head: head on top
        ((1, 0, 0, 0, 0, 1, 0, -1, 0), (0, 0, 0), (1, 2, 3)),  # coronal, y towards the feet
        ((0, 0, 1, 1, 0, 0, 0, 1, 0), (0, 19, 0), (1, 2, 3)),  # sagittal: front on the left, head on top
    ],
)
def test_radiological_convention(direction, corner, spacing):
    shown = view(spacing=(1, 2, 3), direction=direction)
    original = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    assert shown.image[0, 0, 0] == original[corner]
    assert shown.spacing == spacing


def test_oblique_counts_as_its_nearest_axis():
    c, s = np.cos(0.3), np.sin(0.3)
    shown = view(direction=(1, 0, 0, 0, c, s, 0, -s, c))
    assert np.array_equal(shown.image, view().image)


@pytest.mark.parametrize("first", ["prediction", "reference"])
def test_masks_turn_with_the_image(first):
    mask = box((2, 3, 4), (5, 6, 7))
    shown = view(**{first: mask}, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert np.array_equal(shown.foreground, mask[::-1, ::-1] > 0)


def test_slices_span_both_masks():
    assert choose_slices(view(box((2, 2, 1), (5, 5, 4)), box((2, 2, 3), (5, 5, 10)))) == [1, 3, 5, 7, 9]


def test_slices_of_a_thin_object_come_with_neighbours():
    assert choose_slices(view(box((2, 2, 6), (5, 5, 7)))) == [4, 5, 6, 7, 8]
    assert choose_slices(view(box((2, 2, 11), (5, 5, 12)))) == [7, 8, 9, 10, 11]
    assert choose_slices(view(box((2, 2, 0), (5, 5, 1)))) == [0, 1, 2, 3, 4]


def test_slices_without_foreground_are_the_middle():
    assert choose_slices(view()) == [4, 5, 6, 7, 8]
    assert choose_slices(view(shape=(8, 8, 3))) == [0, 1, 2]


def test_slices_run_from_feet_to_head():
    assert choose_slices(view(direction=(1, 0, 0, 0, -1, 0, 0, 0, -1)), 3) == [7, 6, 5]


def test_crop_is_square_in_mm_and_holds_the_object():
    shape = (200, 100, 5)
    mask = box((90, 40, 1), (130, 50, 2), shape)
    horizontal, vertical = crop_window(view(mask, spacing=(0.5, 1.0, 3.0), shape=shape))
    # 40 voxels of 0.5 mm = 20 mm; 40 % of the image's 100 mm is more than 1.9 times that.
    assert (horizontal.stop - horizontal.start, vertical.stop - vertical.start) == (80, 40)
    assert horizontal == slice(70, 150) and vertical == slice(25, 65)


def test_crop_stays_in_the_image():
    assert crop_window(view(box((0, 15, 0), (4, 20, 2)))) == (slice(0, 12), slice(8, 20))
    assert crop_window(view()) == (slice(0, 30), slice(0, 20))


def test_grey_window_ignores_spikes_and_constant_images():
    pixels = np.random.default_rng(0).uniform(100, 200, size=(40, 40, 5))
    pixels[20, 20, 2] = 1e6
    low, high = grey_window(pixels)
    assert 100 < low < 105 and 195 < high < 200
    assert grey_window(np.full((8, 8, 2), 7.0)) == (7.0, 8.0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"reference has shape \(30, 20, 11\) and the image \(30, 20, 12\)"):
        view(reference=box((0, 0, 0), (1, 1, 1), (30, 20, 11)))
    with pytest.raises(ValueError, match=r"shape \(30, 20\)"):
        make_view(np.zeros((30, 20)), None, None, (1, 1), IDENTITY)
    with pytest.raises(ValueError, match="direction of 9 numbers"):
        view(direction=(1, 0, 0))
    with pytest.raises(ValueError, match="3 positive numbers"):
        view(spacing=(1, 0, 1))
