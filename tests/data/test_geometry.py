import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk

from src.data.geometry import IDENTITY, Geometry
from tests.data.helpers import OBLIQUE

SWAPPED = Geometry((4, 5, 6), (1, 2, 3), (10, 20, 30), (0, 1, 0, 1, 0, 0, 0, 0, -1))


def test_index_to_point_by_hand():
    # Index x runs along patient y, index y along patient x, index z against patient z.
    np.testing.assert_allclose(SWAPPED.index_to_point([1, 2, 3]), [10 + 2 * 2, 20 + 1 * 1, 30 - 3 * 3])
    np.testing.assert_allclose(SWAPPED.point_to_index([14, 21, 21]), [1, 2, 3])


@pytest.mark.parametrize("geometry", [SWAPPED, OBLIQUE])
def test_points_agree_with_simpleitk(geometry):
    image = sitk.Image(geometry.size, sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    for index in ([0.0, 0.0, 0.0], [1.5, 2.25, -3.0], [3.0, 4.0, 5.0]):
        point = image.TransformContinuousIndexToPhysicalPoint(index)
        np.testing.assert_allclose(geometry.index_to_point(index), point, atol=1e-9)
        np.testing.assert_allclose(geometry.point_to_index(point), index, atol=1e-9)


def test_sizes_by_hand():
    geometry = Geometry((3, 4, 12), (1, 1, 1), (5, 5, 5))
    np.testing.assert_allclose(geometry.centre, [6, 6.5, 10.5])
    assert geometry.diagonal == pytest.approx(13.0)
    assert Geometry((2, 2, 2), (0.5, 0.5, 3)).voxel_volume == pytest.approx(0.75)
    np.testing.assert_array_equal(geometry.contains([[4.5, 4.5, 4.5], [4.4, 5, 5], [7.5, 8.5, 16.5]]),
                                  [True, False, True])


@pytest.mark.parametrize(
    ("size", "spacing", "new_spacing", "min_size", "expected"),
    [
        ((10, 10, 10), (1, 1, 1), (1, 1, 1), (1, 1, 1), (10, 10, 10)),
        ((10, 10, 10), (1, 1, 1), (2, 2, 2), (1, 1, 1), (5, 5, 5)),
        ((10, 10, 10), (1, 1, 1), (3, 4, 20), (1, 1, 1), (4, 3, 1)),
        ((10, 10, 10), (1, 1, 1), (1, 1, 1.5), (16, 4, 7), (16, 10, 7)),
        ((384, 384, 19), (0.5, 0.5, 3), (1, 1, 1.5), (128, 128, 64), (192, 192, 64)),
        ((100, 1, 1), (0.70001, 1, 1), (0.7, 1, 1), (1, 1, 1), (101, 1, 1)),  # 100.0014 voxels
        ((100, 1, 1), (0.700001, 1, 1), (0.7, 1, 1), (1, 1, 1), (100, 1, 1)),  # 100.0001: rounding of a header
    ],
)
def test_regrid_size(size, spacing, new_spacing, min_size, expected):
    assert Geometry(size, spacing).regrid(new_spacing, min_size).size == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("spacing", [1e308, 1e20, 1e-320])
def test_regrid_refuses_a_spacing_no_volume_has(spacing):
    huge = Geometry((100, 100, 4), (1.0, spacing, 1.0))
    if spacing < 1:
        assert huge.regrid((1, 1, 1), (1, 1, 1)).size == (100, 1, 4)
    else:
        with pytest.raises(ValueError, match=r"100, 100, 4.*1e\+.* too long for a grid of \(1.0, 1.0, 1.0\) mm"):
            huge.regrid((1, 1, 1), (1, 1, 1))



@pytest.mark.parametrize("geometry", [SWAPPED, OBLIQUE])
@pytest.mark.parametrize("normalise_direction", [False, True])
def test_regrid_covers_the_volume_and_keeps_the_centre(geometry, normalise_direction):
    grid = geometry.regrid((1.1, 0.9, 1.6), (1, 1, 1), normalise_direction)
    np.testing.assert_allclose(grid.centre, geometry.centre, atol=1e-9)
    assert grid.direction == (IDENTITY if normalise_direction else geometry.direction)
    corners = (np.indices((2, 2, 2)).reshape(3, -1).T * geometry.size) - 0.5
    assert grid.contains(geometry.index_to_point(corners)).all()


@pytest.mark.parametrize("min_size", [(8, 8, 8), (9, 8, 7), (2, 2, 2)])
def test_padding_does_not_shift_voxels(min_size):
    """Equal spacing: every old voxel centre is a new voxel centre, whether the padding is even or odd."""
    grid = SWAPPED.regrid(SWAPPED.spacing, min_size)
    assert grid.size == tuple(np.maximum(SWAPPED.size, min_size))
    index = grid.point_to_index(SWAPPED.index_to_point(np.indices(SWAPPED.size).reshape(3, -1).T))
    np.testing.assert_allclose(index, np.round(index), atol=1e-9)
    assert index.min() >= -1e-9


def test_centre_block():
    grid = Geometry((10, 7, 4), (1, 2, 3), (0, 0, 0))
    block, slices = grid.centre_block((4, 4, 4))
    assert slices == (slice(3, 7), slice(1, 5), slice(0, 4))
    assert block == Geometry((4, 4, 4), (1, 2, 3), (3, 2, 0))
    with pytest.raises(ValueError, match="does not fit"):
        grid.centre_block((4, 4, 5))


def test_differences_are_measured_in_voxels():
    assert OBLIQUE.differences(OBLIQUE) == []
    # Six digits in a header: 383 voxels on, 1e-6 mm of spacing are 0.0004 mm.
    rounded = dataclasses.replace(OBLIQUE, spacing=(0.500001, 0.5, 3.0), origin=(-57.6854, -82.3631, -27.0808))
    assert OBLIQUE.differences(rounded) == []
    moved = dataclasses.replace(OBLIQUE, origin=(-57.4, *OBLIQUE.origin[1:]))
    (difference,) = OBLIQUE.differences(moved)
    assert difference.startswith("origin (-57.6854") and "0.2854 mm apart" in difference
    assert OBLIQUE.differences(moved, tolerance=1.0) == []


def test_differences_name_every_part():
    other = Geometry((4, 5, 7), (1, 2, 4), (0, 20, 30))
    text = "; ".join(SWAPPED.differences(other))
    assert all(word in text for word in ("size (4, 5, 6) against (4, 5, 7)", "spacing", "origin", "direction"))


@pytest.mark.parametrize("change", [{"size": (0, 1, 1)}, {"spacing": (1, -1, 1)}, {"origin": (0, float("nan"), 0)},
                                    {"direction": (1, 0, 0)}])
def test_nonsense_is_refused(change):
    with pytest.raises(ValueError):
        dataclasses.replace(SWAPPED, **change)
