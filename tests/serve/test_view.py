"""What the page gets: the volume turned to the radiological convention, its mask, and their names."""

import json
import struct

import numpy as np
import pytest

from src.data.geometry import IDENTITY, Geometry
from src.inference.evaluate import NativeCase
from src.serve.job import Job
from src.serve.segmenter import Answer
from src.serve.view import axis_names, pack_view

# Columns are the directions of the array's axes in LPS: left, posterior, superior.
CORONAL = (1, 0, 0, 0, 0, 1, 0, -1, 0)  # x to the left, y to the feet, z to the back
SAGITTAL = (0, 0, 1, 1, 0, 0, 0, -1, 0)  # x to the back, y to the feet, z to the left


@pytest.mark.parametrize(("direction", "ends", "planes"), [
    (IDENTITY, ["RL", "AP", "IS"], ["sagittal", "coronal", "axial"]),
    ((-1, 0, 0, 0, -1, 0, 0, 0, -1), ["RL", "AP", "SI"], ["sagittal", "coronal", "axial"]),
    ((0, 1, 0, 1, 0, 0, 0, 0, 1), ["RL", "AP", "IS"], ["sagittal", "coronal", "axial"]),  # turned by make_view
    (CORONAL, ["RL", "SI", "AP"], ["sagittal", "axial", "coronal"]),
    (SAGITTAL, ["AP", "SI", "RL"], ["coronal", "axial", "sagittal"]),
])
def test_letters_and_planes(direction, ends, planes):
    assert axis_names(direction) == (ends, planes)


def unpacked(answer: Answer, classes: int) -> tuple[dict, list[bytes]]:
    content = pack_view(answer, classes)
    (length,) = struct.unpack_from("<I", content)
    about = json.loads(content[4:4 + length])
    parts, start = [], 4 + length
    for count in about["parts"]:
        parts.append(content[start:start + count])
        start += count
    assert start == len(content)
    return about, parts


def test_what_is_packed():
    native = Geometry((2, 3, 4), (0.5, 1.0, 2.0), direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1))
    image = np.arange(24, dtype=np.int16).reshape(4, 3, 2).transpose(2, 1, 0) * 10  # x fastest
    mask = np.zeros((2, 3, 4), np.uint8)
    mask[0, 1, 2], mask[1, 1, 2] = 1, 2
    job = Job()
    job.mark("read")
    case = NativeCase("a.nii", image, None, native, np.zeros((1, 1, 1), np.float32), native)
    about, (greys, found, file) = unpacked(Answer("a_test.nii", b"the file", case, mask, job), 3)
    assert (about["name"], about["size"], about["stored"]) == ("a_test.nii", [2, 3, 4], [2, 3, 4])
    assert about["spacing"] == [0.5, 1.0, 2.0]
    assert [one["ml"] for one in about["classes"]] == [0.001, 0.001]  # a voxel of 1 mm³ each
    assert about["classes"][0]["colour"] != about["classes"][1]["colour"]
    assert list(about["seconds"]) == ["read"]
    assert file == b"the file"
    # x runs to the right of the patient, so it is turned round.
    turned = np.frombuffer(found, np.uint8).reshape(4, 3, 2)  # z, y, x
    assert np.argwhere(turned).tolist() == [[2, 1, 0], [2, 1, 1]]
    assert (turned[2, 1, 0], turned[2, 1, 1]) == (2, 1)
    grey = np.frombuffer(greys, np.uint8).reshape(4, 3, 2)
    assert (grey[0, 0, 0], grey[0, 0, 1], grey[3, 2, 0], grey[3, 2, 1]) == (10, 0, 255, 244)  # from 0.23 to 229.77
    assert 0 <= about["window"][0] < about["window"][1] <= 255
