import numpy as np
import pytest
import SimpleITK as sitk

from src.data.geometry import IDENTITY, Geometry
from src.data.resampling import class_fractions, half_filled, largest_class, resample
from src.data.volume_files import to_image

FINE = Geometry((4, 1, 1), (1, 1, 1), (0, 0, 0))
COARSE = Geometry((2, 1, 1), (2, 1, 1), (0.5, 0, 0))  # each voxel's centre half way between two of the fine grid


def test_values_half_way_are_means_and_what_lies_outside_is_as_told():
    values = np.array([1, 3, 5, 9], np.float32).reshape(FINE.size)
    np.testing.assert_allclose(resample(values, FINE, COARSE).ravel(), [2, 7])
    beyond = Geometry((3, 1, 1), (1, 1, 1), (2, 0, 0))
    np.testing.assert_allclose(resample(values, FINE, beyond).ravel(), [5, 9, 0])
    np.testing.assert_allclose(resample(values, FINE, beyond, outside=1.0).ravel(), [5, 9, 1])
    with pytest.raises(ValueError, match="for a grid of"):
        resample(values, COARSE, FINE)


def itk(values: np.ndarray, source: Geometry, target: Geometry, outside: float) -> np.ndarray:
    """The same by SimpleITK."""
    found = sitk.Resample(to_image(values, source), target.size, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear,
                          target.origin, target.spacing, target.direction, outside, sitk.sitkFloat64)
    return sitk.GetArrayFromImage(found).transpose(2, 1, 0)


TURN = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)


@pytest.mark.parametrize("direction", [IDENTITY, TURN], ids=["straight", "turned"])
@pytest.mark.parametrize(("size", "spacing", "new_size", "new_spacing", "shift"), [
    ((20, 24, 6), (0.6, 0.7, 3.5), (9, 11, 17), (1.0, 1.3, 1.1), (1.1, 2.3, 0.2)),
    ((9, 11, 17), (1.0, 1.3, 1.1), (20, 24, 6), (0.6, 0.7, 3.5), (-2.2, -1.7, -4.3)),  # reaches beyond every side
    ((5, 1, 7), (1.0, 4.0, 2.0), (5, 3, 1), (1.0, 1.0, 9.0), (0.3, -1.1, 3.3)),
    ((6, 6, 6), (1.0, 1.0, 1.0), (3, 4, 5), (1.0, 1.0, 1.0), (7.0, 0.0, 0.0)),  # nowhere inside
], ids=["coarser", "finer", "thin", "apart"])
def test_parallel_grids_as_itk_has_them(direction, size, spacing, new_size, new_spacing, shift):
    source = Geometry(size, spacing, (-11.0, 5.0, 40.0), direction)
    origin = source.index_to_point(np.array(shift) / spacing)
    target = Geometry(new_size, new_spacing, tuple(origin), direction)
    values = np.random.default_rng(4).normal(size=size).astype(np.float32)
    for stored in (values, np.asfortranarray(values)):
        found = resample(stored, source, target, outside=-7.0)
        assert (found.dtype, found.flags.c_contiguous) == (np.float32, True)
        np.testing.assert_allclose(found, itk(values, source, target, -7.0), rtol=0, atol=2e-6)


def test_grids_turned_against_each_other():
    source = Geometry((8, 9, 10), (1.0, 1.2, 1.4), (0, 0, 0), TURN)
    target = source.regrid((1.1, 1.1, 1.1), (1, 1, 1), normalise_direction=True)
    values = np.random.default_rng(5).normal(size=source.size).astype(np.float32)
    np.testing.assert_allclose(resample(values, source, target), itk(values, source, target, 0.0), rtol=0, atol=2e-6)


def test_constant_regions_stay_exactly_constant():
    source, target = Geometry((7, 7, 7), (0.7, 0.3, 1.9)), Geometry((5, 9, 20), (0.37, 0.11, 0.41))
    np.testing.assert_array_equal(resample(np.full(source.size, 0.1, np.float32), source, target), np.float32(0.1))


@pytest.mark.parametrize("thirds", [1, 5, 7])
def test_a_voxel_that_is_half_filled_but_for_rounding_is_foreground(thirds):
    # At one third of a voxel, of which the other neighbour has 3/4 and this one 3/8: 1/3 * 3/4 + 2/3 * 3/8 = 1/2.
    source = Geometry((2, 1, 1), (thirds / 3, 1, 1))
    target = Geometry((1, 1, 1), (1, 1, 1), (thirds / 9, 0, 0))
    fraction = resample(np.array([3 / 8, 3 / 4], np.float32).reshape(source.size), source, target)
    assert half_filled(fraction).item() == 1
    assert half_filled(np.float32([0.4999, 0.4999999, 0.5, 0])).tolist() == [0, 1, 1, 0]


def test_fractions_by_hand():
    label = np.array([0, 2, 1, 2], np.uint8).reshape(FINE.size)
    fractions = class_fractions(label, FINE, COARSE, 4)
    np.testing.assert_allclose(fractions[:, :, 0, 0].T, [[0.5, 0, 0.5, 0], [0, 0.5, 0.5, 0]])
    beyond = Geometry((2, 1, 1), (1, 1, 1), (3, 0, 0))
    np.testing.assert_allclose(class_fractions(label, FINE, beyond, 3)[:, :, 0, 0].T, [[0, 0, 1], [1, 0, 0]])


@pytest.mark.parametrize(("fractions", "expected"), [
    ((0.5, 0.5, 0.0), 1),  # a tie with the background: foreground, as with two classes
    ((0.5, 0.0, 0.5), 2),
    ((0.0, 0.5, 0.5), 1),  # of two foreground classes the lower number
    ((0.4, 0.2, 0.4), 2),
    ((0.4, 0.3, 0.3), 0),  # the largest single fraction, though foreground fills more than one half
    ((1 / 3, 1 / 3, 1 / 3), 1),
    ((0.500001, 0.0, 0.499999), 0),
    ((1.0, 0.0, 0.0), 0),
])
def test_the_largest_class(fractions, expected):
    found = largest_class(np.array(fractions, np.float32).reshape(3, 1, 1, 1))
    assert found.dtype == np.uint8
    assert found.item() == expected
