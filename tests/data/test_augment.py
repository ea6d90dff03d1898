"""Augmentation moves image and label together, and rotates in mm, not in voxels."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from src.data.augment import augment

SLICES = (1.0, 1.0, 3.0)
SHAPE = (96, 96, 32)  # 96 mm along each axis with SLICES


def ball(centre_mm, radius_mm=10.0):
    """Make a ball around a point given in mm from the block's centre."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    position = (index - (np.array(SHAPE) - 1) / 2) * SLICES
    return (np.linalg.norm(position - centre_mm, axis=-1) <= radius_mm).astype(np.uint8)


def moved(label, seed, spacing=SLICES):
    """Augment a label; equal seeds move all labels alike."""
    return augment(label.astype(np.float32), label, np.random.default_rng(seed), spacing)[1]


def test_image_and_label_move_together():
    """A bright box and its label stay on top of each other whatever the draw."""
    image = np.full((24, 24, 24), -1.0, np.float32)
    label = np.zeros(image.shape, np.uint8)
    image[8:16, 6:16, 9:15] = 3.0
    label[8:16, 6:16, 9:15] = 1
    for seed, spacing in itertools.product(range(5), [(1, 1, 1), (1, 1, 1.5)]):
        new_image, new_label = augment(image, label, np.random.default_rng(seed), spacing)
        assert new_image.dtype == np.float32 and new_label.dtype == np.uint8
        assert set(np.unique(new_label)) == {0, 1}
        bright = new_image > (new_image.max() + new_image.min()) / 2
        assert 2 * (bright & (new_label > 0)).sum() / (bright.sum() + new_label.sum()) > 0.93
        assert 0.6 < new_label.sum() / label.sum() < 1.6  # scale 0.9 to 1.1, cubed
        assert not np.array_equal(new_label, label)


@pytest.mark.parametrize("seed", range(4))
def test_anatomy_is_scaled_and_not_sheared(seed):
    """All distances in mm grow by one factor, and a box's volume by its cube."""
    landmarks = np.array([(-22, 0, 0), (22, 0, 0), (0, -22, 0), (0, 22, 0), (0, 0, -24), (0, 0, 24)], np.float64)
    found = np.array([ndimage.center_of_mass(moved(ball(point), seed)) for point in landmarks]) * SLICES
    pairs = np.array(list(itertools.combinations(range(len(landmarks)), 2))).T
    ratios = np.divide(*(np.linalg.norm(np.subtract(*points[pairs]), axis=1) for points in (found, landmarks)))
    np.testing.assert_allclose(ratios, ratios.mean(), rtol=0.015)  # slices of 3 mm leave that much to chance

    box = np.zeros(SHAPE, np.uint8)
    box[30:66, 34:62, 10:22] = 1  # 36 x 28 x 36 mm
    assert moved(box, seed).sum() / box.sum() == pytest.approx(ratios.mean() ** 3, rel=0.02)


@pytest.mark.parametrize("length", [0.7, 2.0])
def test_equal_spacings_are_as_none(length):
    label = ball((5, 0, 3))
    plain = augment(label.astype(np.float32), label, np.random.default_rng(3))
    scaled = augment(label.astype(np.float32), label, np.random.default_rng(3), (length,) * 3)
    assert all(np.array_equal(*pair) for pair in zip(plain, scaled, strict=True))
