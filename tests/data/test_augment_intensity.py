"""Intensity changes by hand, and what each leaves as it is."""

import numpy as np
import pytest

from src.data.augment_intensity import add_noise, blur, change_contrast, change_gamma, lower_resolution, shade

IMAGE = np.random.default_rng(0).normal(size=(12, 10, 8)).astype(np.float32)


def test_noise_has_the_given_deviation():
    image = np.full((40, 40, 40), 2.0, np.float32)
    noisy = add_noise(image, 0.3, np.random.default_rng(1))
    assert noisy.dtype == np.float32
    assert noisy.mean() == pytest.approx(2, abs=0.005) and noisy.std() == pytest.approx(0.3, rel=0.02)
    assert np.array_equal(noisy, add_noise(image, 0.3, np.random.default_rng(1)))


def test_blur_is_equally_wide_in_mm():
    """The variance of a blurred point is that of the Gaussian: sigma squared in mm along each axis."""
    point = np.zeros((41, 41, 41), np.float32)
    point[20, 20, 20] = 1
    blurred = blur(point, 3.0, (1.0, 1.5, 3.0))
    assert blurred.dtype == np.float32 and blurred.sum() == pytest.approx(1, abs=1e-4)
    for axis, length in enumerate((1.0, 1.5, 3.0)):
        profile = blurred.sum(axis=tuple(other for other in range(3) if other != axis))
        variance = (profile * ((np.arange(41) - 20) * length) ** 2).sum()
        assert np.sqrt(variance) == pytest.approx(3, rel=0.03)


def test_contrast_stretches_about_the_mean_within_the_range():
    image = np.array([0, 4, 5, 6, 10], np.float32).reshape(5, 1, 1)
    assert change_contrast(image, 1.5).ravel().tolist() == [0, 3.5, 5, 6.5, 10]
    assert change_contrast(image, 0.5).ravel().tolist() == [2.5, 4.5, 5, 5.5, 7.5]
    assert change_contrast(image, 2).dtype == np.float32


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_keeps_mean_deviation_and_order(inverted):
    changed = change_gamma(IMAGE, 1.5, inverted)
    assert changed.dtype == np.float32
    assert changed.mean() == pytest.approx(IMAGE.mean(), abs=1e-5)
    assert changed.std() == pytest.approx(IMAGE.std(), rel=1e-5)
    assert np.array_equal(np.argsort(changed.ravel()), np.argsort(IMAGE.ravel()))
    np.testing.assert_allclose(change_gamma(IMAGE, 1.0, inverted), IMAGE, atol=1e-5)


def test_gamma_by_hand():
    """0, 1, 2 becomes 0, 1/4, 1 for an exponent of 2, with mean 5/12 and variance 13/72, and then has 1 and 2/3."""
    image = np.array([0, 1, 2], np.float32).reshape(3, 1, 1)
    power = np.array([0, 0.25, 1])
    expected = (power - 5 / 12) * np.sqrt((2 / 3) / (13 / 72)) + 1
    np.testing.assert_allclose(change_gamma(image, 2.0).ravel(), expected, atol=1e-6)
    np.testing.assert_allclose(change_gamma(image, 2.0, inverted=True).ravel(), 2 - expected[::-1], atol=1e-6)
    constant = np.full((2, 2, 2), 3.0, np.float32)
    assert np.array_equal(change_gamma(constant, 2.0), constant)


def test_shading_goes_through_its_gains():
    """At the nodes the gain is as given, between them that of a parabola; the darkest voxel stays."""
    image = np.full((5, 3, 1), 1.0, np.float32)
    image[0, 0, 0] = -1
    gains = np.log(np.array([2.0, 1.0, 0.5]))
    shaded = shade(image, np.broadcast_to(gains[:, None, None], (3, 3, 3)))
    quarter = 2 ** 0.5  # the parabola through log 2, 0, -log 2 is a line
    np.testing.assert_allclose(shaded[:, 1, 0] + 1, 2 * np.array([2, quarter, 1, 1 / quarter, 0.5]), rtol=1e-6)
    assert shaded[0, 0, 0] == -1 and shaded.dtype == np.float32
    bump = np.log(np.array([1.0, 2.0, 1.0]))
    shaded = shade(np.stack([image[:, 0], image[:, 1]], 1), np.broadcast_to(bump[None, :, None], (3, 3, 3)))
    np.testing.assert_allclose(shaded[1:, 0, 0] + 1, 2, rtol=1e-6)  # two voxels: the ends alone


def test_low_resolution_by_hand():
    """Voxels of 2 mm: means of pairs at 0.5, 2.5, 4.5, 6.5, and lines between, constant beyond."""
    image = np.array([0, 2, 4, 8, 0, 0, 6, 2], np.float32).reshape(8, 1, 1)
    means = [1, 6, 0, 4]
    expected = np.interp(np.arange(8), [0.5, 2.5, 4.5, 6.5], means)
    np.testing.assert_allclose(lower_resolution(image, 2.0, (1, 1, 1)).ravel(), expected, atol=1e-6)


def test_low_resolution_leaves_axes_that_are_as_coarse_and_constants():
    changed = lower_resolution(IMAGE, 2.0, (1.0, 1.0, 3.0))
    assert changed.shape == IMAGE.shape and changed.dtype == np.float32 and changed.flags.c_contiguous
    for z in range(8):  # each slice by itself
        np.testing.assert_allclose(changed[..., z:z + 1], lower_resolution(IMAGE[..., z:z + 1], 2.0, (1, 1, 3)),
                                   atol=1e-6)
    assert changed.std() < 0.8 * IMAGE.std()
    np.testing.assert_allclose(lower_resolution(np.full((7, 9, 5), 4, np.float32), 1.7, (1, 1, 1)), 4, atol=1e-5)
    assert np.array_equal(lower_resolution(IMAGE, 1.0, (1, 1, 1)), IMAGE)
