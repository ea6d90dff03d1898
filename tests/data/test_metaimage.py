"""Each broken file is one that SimpleITK reads without an error, or refuses with a message that helps nobody."""

import gzip
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from src.data.metaimage import find_problems

RAW = np.arange(24, dtype="<i2").tobytes()  # 4 x 3 x 2 voxels, 48 bytes
PACKED = zlib.compress(RAW)
HEADER = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 1 2 3
ElementSpacing = 0.5 0.5 3
DimSize = 4 3 2
ElementType = MET_SHORT
ElementDataFile = Case00.raw
"""


def write(folder: Path, header: str, data: bytes | None = RAW) -> Path:
    """Write header and voxels; the voxels follow the header where it says LOCAL."""
    path = folder / "Case00.mhd"
    is_local = header.rstrip().lower().endswith("local")
    path.write_bytes(header.encode() + (data or b"" if is_local else b""))
    if data is not None and not is_local:
        name = "größe.raw" if "größe.raw" in header else "Case00.raw"
        (folder / name).write_bytes(data)
    return path


def local(header: str) -> str:
    return header.replace("Case00.raw", "LOCAL")


def packed(header: str, size: int | None = None) -> str:
    line = "" if size is None else f"\nCompressedDataSize = {size}"
    return header.replace("CompressedData = False", f"CompressedData = True{line}")


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (HEADER, RAW),
        (HEADER.replace("\n", "\r\n"), RAW),
        (HEADER.replace(" = ", "="), RAW),
        (HEADER.replace(" = ", "  =\t  "), RAW),
        (HEADER.replace(" = ", ": "), RAW),
        ("\ufeff" + HEADER, RAW),
        (HEADER.replace("Offset", "Origin").replace("TransformMatrix", "Rotation"), RAW),
        (HEADER.replace("Offset", "Position").replace("TransformMatrix", "Orientation"), RAW),
        (HEADER.replace("ElementSpacing", "ElementSize"), RAW),
        (HEADER.replace("Offset = 1 2 3\n", "").replace("TransformMatrix = 1 0 0 0 1 0 0 0 1\n", ""), RAW),
        (HEADER.replace("NDims = 3", "NDims = 3\nComment = made by hand"), RAW),
        (HEADER.replace("DimSize", "0008|0060 = MR\nPatient's Name = x^y\nGröße: 1\nmodel (3.0T) =\nDimSize"), RAW),
        (HEADER.replace("Case00.raw", "größe.raw"), RAW),
        (HEADER.replace("DimSize", "HeaderSize = 5\nDimSize"), b"12345" + RAW),
        (HEADER.replace("DimSize", "HeaderSize = -1\nDimSize"), b"123" + RAW),
        (HEADER.replace("1 0 0 0 1 0 0 0 1", "0 1 0 1 0 0 0 0 -1"), RAW),
        (HEADER.replace("1 0 0 0 1 0 0 0 1", "0.707 0.707 0 -0.707 0.707 0 0 0 1"), RAW),
        (local(HEADER), RAW),
        (local(HEADER).replace("\n", "\r\n"), RAW),
        (packed(HEADER), PACKED),
        (packed(HEADER, len(PACKED)), PACKED),
        (packed(HEADER), gzip.compress(RAW, mtime=0)),
        (local(packed(HEADER, len(PACKED))), PACKED),
    ],
)
def test_sound_files_pass(tmp_path, header, data):
    assert find_problems(write(tmp_path, header, data)) == []


@pytest.mark.parametrize(
    ("kind", "width"),
    [("CHAR", 1), ("UCHAR", 1), ("SHORT", 2), ("USHORT", 2), ("INT", 4), ("UINT", 4), ("LONG", 4), ("ULONG", 4),
     ("LONG_LONG", 8), ("ULONG_LONG", 8), ("FLOAT", 4), ("DOUBLE", 8)],
)
def test_element_types(tmp_path, kind, width):
    header = HEADER.replace("MET_SHORT", f"MET_{kind}")
    assert find_problems(write(tmp_path, header, bytes(24 * width))) == []
    assert "asks for" in find_problems(write(tmp_path, header, bytes(24 * width - 1)))[0]


def damaged(data: bytes) -> bytes:
    """Flip one bit of the last voxels' bytes, so that only the checksum tells."""
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("header", "data", "expected"),
    [
        (HEADER, None, "voxel file 'Case00.raw' (ElementDataFile) is missing"),
        (HEADER, RAW[:-3], "has 45 bytes, the header asks for 48"),
        (HEADER, RAW + b"ab", "has 50 bytes, the header asks for 48"),
        (HEADER.replace("MET_SHORT", "MET_LONG"), RAW + RAW + RAW + RAW, "MET_LONG has 4 bytes"),
        (local(HEADER), RAW[:-1], "LOCAL voxel data has 47 bytes"),
        (HEADER.replace("DimSize", "HeaderSize = 5\nDimSize"), RAW, "has 48 bytes, the header asks for 53"),
        (packed(HEADER), damaged(PACKED), "damaged zlib stream"),
        (packed(HEADER), b"no zlib stream at all", "damaged zlib stream"),
        (packed(HEADER), PACKED[:-5], "zlib stream cut short"),
        (packed(HEADER), b"", "zlib stream cut short after 0 of 48 bytes"),
        (packed(HEADER), zlib.compress(RAW[:40]), "unpacks to 40 bytes, the header asks for 48"),
        (packed(HEADER), zlib.compress(RAW + b"ab"), "unpacks to more bytes"),
        (packed(HEADER), PACKED + b"ab", "goes on after the end"),
        (packed(HEADER, len(PACKED) - 5), PACKED, "CompressedDataSize asks for"),
        (local(packed(HEADER)), PACKED, "need CompressedDataSize"),
        (packed(HEADER).replace("DimSize", "HeaderSize = 5\nDimSize"), b"12345" + PACKED, "HeaderSize is 5"),
        (HEADER.replace("MET_SHORT", "MET_HALF"), RAW, "ElementType is MET_HALF, expected one of MET_CHAR"),
        (HEADER.replace("ElementType = MET_SHORT\n", ""), RAW, "ElementType is missing"),
        (HEADER.replace("NDims = 3", "NDims = 2"), RAW, "NDims is 2, expected 3"),
        (HEADER.replace("DimSize", "ElementNumberOfChannels = 3\nDimSize"), RAW, "ElementNumberOfChannels is 3"),
        (HEADER.replace("BinaryData = True", "BinaryData = False"), RAW, "stored as text"),
        (HEADER.replace("4 3 2", "4 0 2"), RAW, "DimSize is '4 0 2'"),
        (HEADER.replace("4 3 2", "4 3"), RAW, "DimSize is '4 3', expected 3 numbers"),
        (HEADER.replace("4 3 2", "99999 99999 99999"), RAW, "DimSize"),
        (HEADER.replace("0.5 0.5 3", "0.5 0 3"), RAW, "ElementSpacing is '0.5 0 3'"),
        (HEADER.replace("0.5 0.5 3", "0.5 -0.5 3"), RAW, "above 0 mm"),
        (HEADER.replace("0.5 0.5 3", "0.5,0.5,3"), RAW, "separated by spaces"),
        (HEADER.replace("ElementSpacing = 0.5 0.5 3\n", ""), RAW, "no ElementSpacing"),
        (HEADER.replace("ElementSpacing", "elementspacing"), RAW, "spell it 'ElementSpacing'"),
        (HEADER.replace("ElementSpacing", "Element Spacing"), RAW, "spell it 'ElementSpacing'"),
        (HEADER.replace("ElementSpacing = ", "= "), RAW, "line 8 of the header is '= 0.5 0.5 3'"),
        (HEADER.replace("ElementSpacing", "Element\x00Spacing"), RAW, "line 8 of the header"),
        (HEADER.replace("1 2 3", "1 nan 3"), RAW, "Offset is '1 nan 3'"),
        (HEADER.replace("Offset", "Origin = 9 9 9\nOffset"), RAW, "Offset and Origin mean the same and disagree"),
        (HEADER.replace("1 0 0 0 1 0 0 0 1", "1 0.3 0 0 1 0 0 0 1"), RAW, "not orthonormal"),
        (HEADER.replace("1 0 0 0 1 0 0 0 1", "2 0 0 0 2 0 0 0 2"), RAW, "not orthonormal"),
        (HEADER.replace("DimSize", "DimSize = 9 9 9\nDimSize"), RAW, "DimSize is given twice"),
        (HEADER.replace("DimSize", "hello\nDimSize"), RAW, "line 9 of the header is 'hello'"),
        (HEADER.replace("Case00.raw", "LIST"), RAW, "several files"),
        (HEADER.replace("Case00.raw", "slice%03d.raw 1 2 1"), RAW, "several files"),
        (HEADER.replace("ElementDataFile = Case00.raw\n", ""), RAW, "no ElementDataFile"),
        ("\x89PNG\r\n\x1a\n\0\0", RAW, "no MetaImage"),
    ],
)
def test_faults_are_named(tmp_path, header, data, expected):
    path = write(tmp_path, header, data)
    problems = find_problems(path)
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}: ")
    assert expected in problems[0]


def test_all_faults_of_a_header_at_once(tmp_path):
    header = HEADER.replace("MET_SHORT", "MET_HALF").replace("0.5 0.5 3", "0 0 0").replace("Offset", "offset")
    header = header.replace("DimSize", "ElementNumberOfChannels = 2\nDimSize")
    text = " ".join(find_problems(write(tmp_path, header)))
    assert "'offset'" in text
    text = " ".join(find_problems(write(tmp_path, header.replace("offset", "Offset"))))
    assert all(word in text for word in ("MET_HALF", "ElementSpacing", "ElementNumberOfChannels"))


def test_missing_header(tmp_path):
    assert "no such file" in find_problems(tmp_path / "Case00.mhd")[0]


def test_lines_of_spaces_and_endless_numbers_are_told_at_once(tmp_path):
    path = tmp_path / "a.mha"
    path.write_bytes(b"a" + b" " * 500_000 + b"a")  # took hours, in which no other thread of Python ran
    started = time.process_time()
    assert "not 'Key = value'" in find_problems(path)[0]
    assert time.process_time() - started < 5
    path = write(tmp_path, HEADER.replace("DimSize", f"HeaderSize = {'9' * 5000}\nDimSize"))
    assert "HeaderSize is '999" in find_problems(path)[0]


def test_exploding_stream_stops_early(tmp_path):
    path = write(tmp_path, packed(HEADER), zlib.compress(bytes(200_000_000), 9))
    assert "unpacks to more bytes" in find_problems(path)[0]
