"""Positions against ITK's B-spline transform and by hand; resampling against scipy in float64."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.interpolate import BSpline

from src.data.augment import DEFORM_CELL
from src.data.augment_space import affine_matrix, resample, source_positions, spline_weights

STAY = np.eye(3)
STILL = np.zeros(3)


def grid(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float64)


def test_weights_are_cubic_b_splines():
    basis = BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    position = (np.arange(7) + 0.5) * 2 / 7
    expected = np.nan_to_num(basis(position[:, np.newaxis] - np.array([-1, 0, 1, 2, 3])))
    np.testing.assert_allclose(spline_weights(7), expected, atol=1e-12)
    np.testing.assert_allclose(spline_weights(7).sum(axis=1), 1, atol=1e-12)


def test_deformation_is_that_of_itk_with_mesh_size_two():
    shape, spacing = (10, 12, 8), np.array([1.0, 1.25, 2.0])
    millimetres = np.random.default_rng(0).uniform(-3, 3, (3, 5, 5, 5))
    transform = sitk.BSplineTransform(3, 3)
    transform.SetTransformDomainOrigin(list(-spacing / 2))
    transform.SetTransformDomainPhysicalDimensions(list(spacing * shape))
    transform.SetTransformDomainMeshSize((2, 2, 2))
    transform.SetParameters(np.concatenate([part.transpose(2, 1, 0).ravel() for part in millimetres]).tolist())
    found = source_positions(shape, STAY, STILL, millimetres / spacing.reshape(3, 1, 1, 1))
    assert found.dtype == np.float32
    for voxel in [(0, 0, 0), (9, 11, 7), (4, 6, 3), (5, 1, 7), (0, 8, 2)]:
        expected = np.array(transform.TransformPoint(list(voxel * spacing))) / spacing
        assert np.abs(expected - voxel).max() > 0.05
        np.testing.assert_allclose(found[:, *voxel], expected, atol=1e-5)


def test_no_displacement_stays_and_a_constant_one_shifts():
    shape = (6, 5, 9)
    np.testing.assert_allclose(source_positions(shape, STAY, STILL, np.zeros((3, 5, 5, 5))), grid(shape), atol=1e-5)
    constant = np.broadcast_to(np.array([1.0, -2.0, 0.5]).reshape(3, 1, 1, 1), (3, 5, 5, 5))
    expected = grid(shape) + np.array([1.0, -2.0, 0.5]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(source_positions(shape, STAY, STILL, constant), expected, atol=1e-5)


def test_affine_maps_are_exact_and_follow_the_deformation():
    """c + M (o - c + d) + shift; here M doubles and turns x to y, so a displacement of x moves the source in y."""
    shape, centre = (4, 6, 5), np.array([1.5, 2.5, 2.0])
    matrix = np.array([[0.0, -2, 0], [2, 0, 0], [0, 0, 2]])
    displacement = np.zeros((3, 5, 5, 5))
    displacement[0] = 0.75
    found = source_positions(shape, matrix, np.array([0.0, 0.0, 10.0]), displacement)
    for voxel in [(0, 0, 0), (3, 5, 4), (1, 4, 2)]:
        x, y, z = voxel - centre
        np.testing.assert_allclose(found[:, *voxel], centre + [-2 * y, 2 * (x + 0.75), 2 * z + 10], atol=1e-5)


def test_quarter_turn_is_exact():
    rng = np.random.default_rng(1)
    image, label = rng.normal(size=(5, 5, 3)).astype(np.float32), rng.integers(0, 4, (5, 5, 3)).astype(np.uint8)
    positions = source_positions(image.shape, affine_matrix((0, 0, np.pi / 2), 1, (1, 1, 3)), STILL)
    new_image, new_label = resample(image, label, positions, 0)
    for x, y, z in itertools.product(range(5), range(5), range(3)):
        assert new_label[x, y, z] == label[4 - y, x, z]
        assert new_image[x, y, z] == pytest.approx(image[4 - y, x, z], abs=1e-4)


def test_rotation_is_one_in_space():
    """A quarter turn about x with slices of 3 mm: three voxels along y are one along z."""
    expected = [[1, 0, 0], [0, 0, -3], [0, 1 / 3, 0]]
    np.testing.assert_allclose(affine_matrix((np.pi / 2, 0, 0), 1, (1, 1, 3)), expected, atol=1e-12)
    np.testing.assert_allclose(affine_matrix((0, 0, 0), 0.5, (1, 1, 3)), np.eye(3) / 2, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 2.3, -2.0, 40.0, -40.0])
def test_resampling_is_linear_for_the_image_and_each_class(offset):
    """Also in part and altogether outside, where the fade to the surroundings takes one voxel."""
    rng = np.random.default_rng(2)
    image, label = rng.normal(size=(9, 7, 8)).astype(np.float32), np.zeros((9, 7, 8), np.uint8)
    label[2:6, 1:5, 2:6], label[4:8, 3:6, 3:7] = 5, 2
    positions = source_positions((11, 6, 9), affine_matrix((0.2, -0.3, 0.4), 1.1, (1, 1, 2)), np.full(3, offset),
                                 rng.uniform(-1, 1, (3, 5, 5, 5)))
    new_image, new_label = resample(image, label, positions, -3)

    def interpolate(array, outside):
        return ndimage.map_coordinates(array.astype(np.float64), positions.astype(np.float64), order=1,
                                       mode="grid-constant", cval=outside)

    np.testing.assert_allclose(new_image, interpolate(image, -3), atol=1e-4)
    shares = np.stack([interpolate(label == value, value == 0) for value in (0, 2, 5)])
    clear = np.diff(np.sort(shares, axis=0)[1:], axis=0)[0] > 1e-4  # rounding decides about equals
    assert clear.mean() > 0.99
    assert np.array_equal(new_label[clear], np.array([0, 2, 5])[shares.argmax(axis=0)][clear])
    assert new_image.dtype == np.float32 and new_label.dtype == np.uint8
    assert set(np.unique(new_label)) == ({0} if abs(offset) == 40 else {0, 2, 5})


def test_between_two_classes_lies_no_third():
    """Between background 0 and class 2, interpolation of the numbers would give 1."""
    label = np.zeros((16, 4, 4), np.uint8)
    label[8:] = 2
    positions = grid((16, 4, 4)).astype(np.float32) + np.array([0.3, 0, 0], np.float32).reshape(3, 1, 1, 1)
    _, moved = resample(label.astype(np.float32), label, positions, 0)
    assert moved[:, 0, 0].tolist() == [0] * 8 + [2] * 8  # voxel 7 is 0.7 background
    positions += np.array([0.4, 0, 0], np.float32).reshape(3, 1, 1, 1)
    _, moved = resample(label.astype(np.float32), label, positions, 0)
    assert moved[:, 0, 0].tolist() == [0] * 7 + [2] * 8 + [0]


def test_the_strongest_deformation_folds_nothing():
    shape = (24, 32, 16)
    cell = np.array(shape).reshape(3, 1, 1, 1) / 2
    for seed in range(4):
        signs = np.random.default_rng(seed).choice([-1, 1], (3, 5, 5, 5))
        positions = source_positions(shape, STAY, STILL, DEFORM_CELL * cell * signs)
        jacobian = np.stack([np.stack(np.gradient(part)) for part in positions])
        assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0
