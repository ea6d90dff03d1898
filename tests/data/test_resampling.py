import numpy as np
import pytest

from src.data.geometry import Geometry
from src.data.resampling import class_fractions, largest_class, resample

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
