"""Patches lie inside the volume, hold the foreground they were placed for, and are equally likely elsewhere."""

from collections import Counter

import numpy as np
import pytest

from src.data.patches import PatchSampler, foreground_voxels
from src.overrides import load_recipe

SIZE = (4, 3, 2)
SHAPE = (9, 7, 3)


def starts(sampler, foreground, count, shape=SHAPE):
    rng = np.random.default_rng(0)
    windows = [sampler.place(shape, foreground, rng) for _ in range(count)]
    assert {tuple(part.stop - part.start for part in window) for window in windows} == {SIZE}
    return [tuple(part.start for part in window) for window in windows]


def test_from_recipe():
    recipe = load_recipe(overrides=["VolSize=[32,48,16]", "foreground_share=0.25", "patches_per_case=3"])
    assert PatchSampler.from_recipe(recipe) == PatchSampler((32, 48, 16), 0.25, 3)


def test_a_volume_of_the_patch_size_gives_itself():
    whole = tuple(slice(0, n) for n in SIZE)
    voxels = foreground_voxels(np.ones(SIZE, np.uint8))
    for share in (0, 1):
        assert PatchSampler(SIZE, share).place(SIZE, voxels, np.random.default_rng(1)) == whole


def test_all_positions_are_equally_likely_without_foreground():
    """6 x 5 x 2 of them."""
    for foreground, share in (([], 1.0), (foreground_voxels(np.ones(SHAPE, np.uint8)), 0.0)):
        counts = Counter(starts(PatchSampler(SIZE, share), foreground, 6000))
        assert len(counts) == 60
        assert min(counts.values()) > 60 and max(counts.values()) < 150


def test_a_patch_holds_the_voxel_at_any_place_within():
    """Voxel (5, 0, 2): patches of 4 x 3 x 2 hold it from x = 2 to 5, at y = 0 and z = 1 only."""
    label = np.zeros(SHAPE, np.uint8)
    label[5, 0, 2] = 1
    counts = Counter(starts(PatchSampler(SIZE, 1.0), foreground_voxels(label), 800))
    assert set(counts) == {(x, 0, 1) for x in range(2, 6)}
    assert min(counts.values()) > 150


def test_classes_are_equally_likely_however_large():
    label = np.zeros((30, 6, 4), np.uint8)
    label[:15], label[29, 5, 3] = 1, 3
    drawn = starts(PatchSampler(SIZE, 1.0), foreground_voxels(label), 1000, label.shape)
    assert 430 < sum(x >= 26 for x, _, _ in drawn) < 570
    assert all(x <= 14 or x == 26 for x, _, _ in drawn)


def test_foreground_share():
    label = np.zeros((40, 30, 20), np.uint8)
    label[0, 0, 0] = 1
    drawn = starts(PatchSampler(SIZE, 0.25), foreground_voxels(label), 2000, label.shape)
    assert 430 < drawn.count((0, 0, 0)) < 570


def test_the_generator_decides():
    voxels = foreground_voxels(np.ones(SHAPE, np.uint8))
    sampler = PatchSampler(SIZE, 0.5)
    first, second = ([sampler.place(SHAPE, voxels, rng) for _ in range(20)]
                     for rng in (np.random.default_rng(4), np.random.default_rng(4)))
    assert first == second


def test_a_smaller_volume_is_refused():
    with pytest.raises(ValueError, match=r"patch of \(4, 3, 2\) voxels does not fit into a volume of \(4, 2, 9\)"):
        PatchSampler(SIZE).place((4, 2, 9), [], np.random.default_rng(0))


def test_foreground_voxels():
    label = np.zeros((2, 3, 2), np.uint8)
    label[0, 1, 1], label[1, 2, 0], label[0, 0, 1] = 2, 2, 1
    assert [voxels.tolist() for voxels in foreground_voxels(label)] == [[1], [3, 10]]
    assert foreground_voxels(np.zeros((2, 2, 2), np.uint8)) == []
    (large,) = foreground_voxels(np.ones((50, 50, 13), np.uint8))
    assert large.dtype == np.int32 and len(large) == 8125 and np.all(np.diff(large) == 4)
