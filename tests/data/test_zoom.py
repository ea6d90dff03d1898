"""The block of a further look: centred on the foreground, which has the asked-for volume in it."""

import numpy as np
import pytest

from src.data.data_manager import DataManager
from src.data.geometry import IDENTITY, Geometry
from src.data.zoom import View, view_of
from tests.data.helpers import OBLIQUE, ellipsoid

GRID = Geometry((20, 16, 12), (1.0, 2.0, 3.0), (-5.0, 4.0, 10.0))


def test_view_by_hand():
    mask = np.zeros(GRID.size, np.uint8)
    mask[2:6, 3:5, 7] = 2  # 8 voxels of 6 mm^3, around index (3.5, 3.5, 7)
    view = view_of(mask, GRID, 0.048 / 0.9**3)
    assert view.centre == pytest.approx((-1.5, 11.0, 31.0))
    assert view.scale == pytest.approx(0.9)


@pytest.mark.parametrize(("millilitres", "scale"), [(0.384, 0.5), (10, 0.5), (0.006, 2.0), (1e-4, 2.0)])
def test_scales_have_limits(millilitres, scale):
    mask = np.zeros(GRID.size, np.uint8)
    mask[2:6, 3:5, 7] = 1
    assert view_of(mask, GRID, millilitres).scale == pytest.approx(scale)


def test_no_foreground_no_view():
    assert view_of(np.zeros(GRID.size, np.uint8), GRID, 1.0) is None


@pytest.mark.parametrize("normalise_direction", [False, True])
def test_block_around_a_point(normalise_direction):
    block = OBLIQUE.block_around((10.0, -20.0, 35.0), (0.5, 1.0, 2.0), (5, 6, 8), normalise_direction)
    assert (block.size, block.spacing) == ((5, 6, 8), (0.5, 1.0, 2.0))
    assert block.centre == pytest.approx((10.0, -20.0, 35.0))
    assert block.direction == (IDENTITY if normalise_direction else OBLIQUE.direction)


@pytest.mark.parametrize("normalise_direction", [False, True])
@pytest.mark.parametrize("radii", [(8, 9, 10), (14, 12, 9)])
def test_foreground_fills_the_same_of_every_zoomed_block(normalise_direction, radii):
    """Whatever its own size and place: the asked-for volume in voxels of dstRes, in the middle."""
    geometry = Geometry((60, 60, 40), (0.8, 0.8, 1.2), OBLIQUE.origin, OBLIQUE.direction)
    label = np.roll(ellipsoid(geometry, radii), (6, -4, 3), axis=(0, 1, 2))
    manager = DataManager((1.0, 1.0, 1.5), (32, 32, 32), normalise_direction, zoom_ml=4.0)
    view = view_of(label, geometry, 4.0)
    image, block = manager.preprocess(np.where(label, 900, 100).astype(np.int16), geometry, view)
    foreground = image > (image.max() + np.median(image)) / 2
    assert np.count_nonzero(foreground) * 1.5 / 1000 == pytest.approx(4.0, rel=0.03)
    assert np.argwhere(foreground).mean(axis=0) == pytest.approx([15.5] * 3, abs=0.1)
    assert block == manager.block_geometry(geometry, view) and block.spacing == pytest.approx(
        (view.scale, view.scale, 1.5 * view.scale))


def test_view_moves_the_block():
    """A ramp along x has, around another point and with larger voxels, the values of that place."""
    ramp = np.broadcast_to(np.arange(20.0)[:, None, None], GRID.size).astype(np.float32)
    manager = DataManager((1.0, 2.0, 3.0), (4, 4, 4))
    around = GRID.index_to_point(np.array([10.0, 8, 6]))
    block, grid = manager.preprocess(ramp, GRID, View(tuple(around), 1.5))
    steps = np.diff(block[:, 0, 0])
    assert steps == pytest.approx(steps[0]) and grid.point_to_index(around) == pytest.approx([1.5] * 3)
    # z-scored: 10 - 2.25, 10 - 0.75 and so on have the mean 10 and the deviation 1.5 sqrt(5) / 2.
    assert block[:, 0, 0] == pytest.approx(np.array([-1.5, -0.5, 0.5, 1.5]) / (np.sqrt(5) / 2), abs=1e-4)
