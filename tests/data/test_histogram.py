"""A matched scan has the quantiles of the other one."""

import numpy as np
import pytest

from src.data.histogram import QUANTILES, landmarks, match_histogram


def scan(seed, draw, shape=(40, 40, 30), background=-2.0):
    """Make foreground of drawn intensities, all above the background, with background around it."""
    image = np.full(shape, background, np.float32)
    inner = tuple(slice(4, n - 4) for n in shape)
    image[inner] = draw(np.random.default_rng(seed), image[inner].shape)
    return image


FIRST = scan(0, lambda rng, shape: rng.normal(1, 0.3, shape))
SECOND = scan(1, lambda rng, shape: rng.gamma(3, 2, shape), background=-1.0)


def test_landmarks_are_background_and_quantiles():
    image = np.array([-1, -1, 3, 1, 2, -1], np.float32).reshape(3, 2, 1)
    found = landmarks(image)
    assert found.shape == (1 + QUANTILES,) and found[0] == -1
    np.testing.assert_allclose(found[1:], np.linspace(1, 3, QUANTILES), rtol=1e-6)
    assert landmarks(np.full((3, 3, 3), 2.0, np.float32)).tolist() == [2]


def test_large_images_are_judged_by_a_part_of_all_slices():
    """Slices of rising intensity and a number of voxels that steps of a power of two would meet again and again."""
    image = np.broadcast_to(np.arange(64, dtype=np.float32), (128, 128, 64)).copy()
    expected = np.quantile(np.arange(1, 64), np.linspace(0, 1, QUANTILES))
    np.testing.assert_allclose(landmarks(image)[1:], expected, atol=1)


def test_matching_gives_the_quantiles_of_the_other_scan():
    matched = match_histogram(FIRST, landmarks(FIRST), landmarks(SECOND))
    assert matched.dtype == np.float32
    shares = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(np.quantile(matched[FIRST > -2], shares), np.quantile(SECOND[SECOND > -1], shares),
                               rtol=0.02, atol=0.02)
    assert matched.max() == pytest.approx(SECOND.max(), rel=1e-5)
    assert np.all(matched[FIRST == -2] == -1)  # background to background
    order = np.argsort(FIRST.ravel())
    assert np.diff(matched.ravel()[order]).min() >= 0


def test_a_part_is_matched_as_the_whole_and_a_scan_to_itself_stays():
    own, other = landmarks(FIRST), landmarks(SECOND)
    part = (slice(10, 20), slice(0, 30), slice(5, 9))
    assert np.array_equal(match_histogram(FIRST[part], own, other), match_histogram(FIRST, own, other)[part])
    np.testing.assert_allclose(match_histogram(FIRST, own, own), FIRST, atol=1e-4)


def test_few_grey_values_go_to_the_means_of_their_quantiles():
    """Half of the foreground is 1 and half 2; the other's quantiles are those of 0 to 1, so 1/4 and 3/4."""
    image = np.array([0] * 10 + [1] * 50 + [2] * 50, np.float32).reshape(11, 10, 1)
    other = np.concatenate([[-1], np.linspace(0, 1, QUANTILES)])
    matched = match_histogram(image, landmarks(image), other).ravel()
    np.testing.assert_allclose(np.unique(matched), [-1, 0.25, 0.75], atol=0.01)


def test_without_foreground_nothing_changes():
    flat = np.full((4, 4, 4), 3.0, np.float32)
    assert match_histogram(flat, landmarks(flat), landmarks(SECOND)) is flat
    assert match_histogram(FIRST, landmarks(FIRST), landmarks(flat)) is FIRST
