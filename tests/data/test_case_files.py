import dataclasses

import numpy as np
import pytest

from src.data.case_files import find_label_problems, read_case
from src.data.geometry import Geometry
from src.data.volume_files import write_volume
from src.errors import DataError
from tests.data.helpers import write_case


def noise(size, dtype=np.int16, seed=0):
    return np.random.default_rng(seed).integers(0, 100, size).astype(dtype)


def test_all_problems_of_a_case_at_once(tmp_path):
    geometry = Geometry((4, 4, 4))
    case = write_case(tmp_path, "Case00", np.full((4, 4, 4), 7, np.int16), noise((4, 4, 4)), geometry)
    write_volume(case.label_path, noise((4, 4, 4)), dataclasses.replace(geometry, origin=(0, 0, 0.5)))
    with pytest.raises(DataError) as caught:
        read_case(case)
    constant, values, grid = caught.value.problems
    assert constant.startswith(f"Case00: {case.image_path}: the image is constant (every voxel is 7)")
    assert values.startswith(f"Case00: {case.label_path}: label values are {{0, ")
    assert "not on the grid" in grid and "0.5 mm apart" in grid


@pytest.mark.parametrize("values", [(0, 1, 2), (1, 2), (0, -1), (0, 0.3)])
def test_labels_that_are_not_binary(tmp_path, values):
    label = np.resize(np.array(values, np.float32), (4, 4, 4))
    case = write_case(tmp_path, "Case00", noise((4, 4, 4)), label, Geometry((4, 4, 4)))
    with pytest.raises(DataError, match="expected 0 and one foreground value"):
        read_case(case)


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0,), (1,)])
def test_binary_labels(tmp_path, values):
    label = np.resize(np.array(values, np.uint8), (4, 4, 4))
    case = write_case(tmp_path, "Case00", noise((4, 4, 4)), label, Geometry((4, 4, 4)))
    np.testing.assert_array_equal(read_case(case)[1], label > 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("values", [(0, 1, 2), (0, 2), (0,), (1, 2)])
def test_labels_of_several_classes_keep_their_numbers(tmp_path, values, dtype):
    label = np.resize(np.array(values, dtype), (4, 4, 4))
    case = write_case(tmp_path, "Case00", noise((4, 4, 4)), label, Geometry((4, 4, 4)))
    found = read_case(case, classes=3)[1]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, label)


@pytest.mark.parametrize("values", [(0, 1, 3), (0, -1), (0, 0.5), (0, 255)])
def test_labels_that_are_none_of_the_classes(tmp_path, values):
    label = np.resize(np.array(values, np.float32), (4, 4, 4))
    case = write_case(tmp_path, "Case00", noise((4, 4, 4)), label, Geometry((4, 4, 4)))
    with pytest.raises(DataError, match="Case00: .*_segmentation.mhd: label values are .*whole numbers from 0 to 2"):
        read_case(case, classes=3)
    assert find_label_problems(case.label_path) == []
    assert len(find_label_problems(case.label_path, 3)) == 1


def test_class_numbers_may_be_rounded(tmp_path):
    """A slope in the header of a NIfTI file leaves 1.9999998 for 2."""
    label = np.resize(np.array([0, 1.0000002, 1.9999998], np.float32), (4, 4, 4))
    case = write_case(tmp_path, "Case00", noise((4, 4, 4)), label, Geometry((4, 4, 4)))
    assert np.unique(read_case(case, classes=3)[1]).tolist() == [0, 1, 2]


def test_a_label_as_it_is_stored(tmp_path):
    label = np.resize(np.array([0, 7.5, 2], np.float32), (4, 4, 4))
    case = write_case(tmp_path, "Case00", noise((4, 4, 4)), label, Geometry((4, 4, 4)))
    np.testing.assert_array_equal(read_case(case, classes=None)[1], label)
