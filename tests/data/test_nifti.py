"""SimpleITK fills a NIfTI file that is cut short with whatever, without an error."""

import struct

import numpy as np
import pytest
import SimpleITK as sitk

from src.data.nifti import find_problems, read_shape


@pytest.fixture
def volume(tmp_path):
    """Write a 5 x 6 x 7 volume of noise under the given name and return its path."""

    def make(name, shape=(7, 6, 5)):
        noise = np.random.default_rng(0).integers(0, 2000, shape).astype(np.int16)
        path = tmp_path / name
        sitk.WriteImage(sitk.GetImageFromArray(noise, isVector=False), str(path))
        return path

    return make


def with_offset(data, offset):
    """Put another vox_offset into a NIfTI-1 header."""
    return data[:108] + struct.pack("<f", offset) + data[112:]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_sound_files_pass(volume, name):
    assert find_problems(volume(name)) == []
    assert find_problems(volume(name, (1, 7, 6, 5))) == []


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("a.nii", lambda data: data[:-10], "762 bytes unpacked, the header asks for 772"),  # 352 + 2 * 5 * 6 * 7
        ("a.nii", lambda data: data[:100], "no NIfTI header"),
        ("a.nii", lambda data: data[:344] + bytes(4) + data[348:], "Analyze"),
        ("a.nii", lambda data: with_offset(data, float("nan")), "vox_offset is nan"),
        ("a.nii", lambda data: with_offset(data, float("inf")), "vox_offset is inf"),
        ("a.nii", lambda data: with_offset(data, -352.0), "vox_offset is -352.0"),
        ("a.nii.gz", lambda data: data[: len(data) // 2], "cut short gzip"),
        ("a.nii.gz", lambda data: data[:-6] + b"\0\0" + data[-4:], "CRC"),
        ("a.nii.gz", lambda data: b"no gzip", "gzip"),
    ],
)
def test_faults_are_named(volume, name, damage, expected):
    path = volume(name)
    path.write_bytes(damage(path.read_bytes()))
    (problem,) = find_problems(path)
    assert problem.startswith(f"{path}: ")
    assert expected in problem


def test_four_dimensions_are_refused(volume):
    assert "expected three dimensions" in find_problems(volume("a.nii.gz", (2, 7, 6, 5)))[0]


def test_missing_file(tmp_path):
    assert "no such file" in find_problems(tmp_path / "a.nii")[0]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3, 4), (64, 65, 66)])  # within the first bytes that are read, and beyond a piece
def test_voxels_that_are_no_numbers_are_counted(tmp_path, name, kind, shape):
    """SimpleITK reads them as 0."""
    array = np.ones(shape, kind)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
    assert find_problems(tmp_path / name) == []
    array[0, 0, 0], array[-1, -1, -1], array[1, 1, 1] = np.nan, np.inf, -np.inf
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
    (problem,) = find_problems(tmp_path / name)
    assert f"3 of {array.size} voxels are not finite" in problem


def test_bits_that_do_not_fit_the_type(volume):
    path = volume("a.nii")
    data = bytearray(path.read_bytes())
    struct.pack_into("<h", data, 72, 0)
    path.write_bytes(data)
    (problem,) = find_problems(path)
    assert "bitpix is 0, and voxels of its datatype 4 have 16 bits" in problem


def header_of_version_2(**changes: tuple) -> bytes:
    """A sound NIfTI-2 file of 2 x 2 x 2 voxels, but for fields (offset, format, values ...) by name."""
    data = bytearray(544 + 8)
    for offset, kind, *values in ({
            "size": (0, "<i", 540), "magic": (4, "4s", b"n+2\0"), "type": (12, "<2h", 2, 8),
            "dim": (16, "<8q", 3, 2, 2, 2, 1, 1, 1, 1), "pixdim": (104, "<8d", 1, 1, 1, 1, 0, 0, 0, 0),
            "vox_offset": (168, "<q", 544), "codes": (344, "<2i", 1, 1)} | changes).values():
        struct.pack_into(kind, data, offset, *values)
    return bytes(data)


@pytest.mark.parametrize(("offset", "kind", "values", "expected"), [
    (80, "<f", [0], "pixdim is (0.0, 1.0, 1.0), expected three spacings above 0 mm"),
    (84, "<f", [float("nan")], "pixdim is (1.0, nan, 1.0)"),
    (88, "<f", [-2], "pixdim is (1.0, 1.0, -2.0)"),
    (256, "<3f", [0.5, 0.7, 0.9], "qform has quaternion (0.5, 0.6999"),
    (260, "<f", [float("nan")], "qform has quaternion"),
    (268, "<f", [float("inf")], "and offset (inf, "),
    (300, "<f", [float("nan")], "sform has the rows"),
    (70, "<2h", [32, 64], "datatype is 32, expected whole or real numbers"),  # complex
    (70, "<2h", [128, 24], "datatype is 128"),  # colours
    (108, "<f", [0], "vox_offset is 0.0"),  # voxels in the header
])
def test_what_itk_would_make_up_is_refused(volume, offset, kind, values, expected):
    path = volume("a.nii")
    data = bytearray(path.read_bytes())
    assert struct.unpack_from("<2h", data, 252) == (1, 1)  # both forms are in use
    struct.pack_into(kind, data, offset, *values)
    path.write_bytes(data)
    (problem,) = find_problems(path)
    assert expected in problem


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, ""),
    ({"pixdim": (104, "<4d", 1, 1, 0, 1)}, "pixdim is (1.0, 0.0, 1.0)"),
    ({"quaternion": (352, "<d", 1.5)}, "quaternion (1.5, 0.0, 0.0)"),
    ({"quaternion": (352, "<d", 1.5), "codes": (344, "<2i", 0, 1)}, ""),  # not in use
    ({"rows": (488, "<d", float("nan"))}, "sform has the rows"),
    ({"vox_offset": (168, "<q", 352)}, "vox_offset is 352"),
])
def test_version_2(tmp_path, changes, expected):
    (tmp_path / "a.nii").write_bytes(header_of_version_2(**changes))
    problems = find_problems(tmp_path / "a.nii")
    assert len(problems) == bool(expected)
    assert expected in "".join(problems)


def test_the_shape_is_read_whatever_follows(volume, tmp_path):
    path = volume("a.nii")
    path.write_bytes(path.read_bytes()[:400])
    assert read_shape(path) == (5, 6, 7)
    path.write_bytes(b"no header")
    assert read_shape(path) == ()
