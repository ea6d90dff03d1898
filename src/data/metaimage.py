"""Checks of MetaImage files (.mhd + raw, .mha) before SimpleITK reads them.

SimpleITK reads a number of broken files without a word: a damaged or short zlib stream, a raw file that is too long,
a misspelt key. This module parses the header only to find such faults; the reading stays with SimpleITK.
Format: MetaIO, https://itk.org/Wiki/MetaIO/Documentation, and the behaviour of SimpleITK 2.
"""

import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SUFFIXES = (".mhd", ".mha")

# Bytes per element; MetaIO's LONG has 32 bits on every platform.
_ELEMENT_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
    "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}
_ORIGIN_KEYS = ("Offset", "Origin", "Position")
_DIRECTION_KEYS = ("TransformMatrix", "Rotation", "Orientation")
_KNOWN_KEYS = {
    key.lower(): key
    for key in ("ObjectType", "NDims", "DimSize", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB",
                "CompressedData", "CompressedDataSize", "ElementSpacing", "ElementSize", "ElementType",
                "ElementNumberOfChannels", "HeaderSize", "ElementDataFile", *_ORIGIN_KEYS, *_DIRECTION_KEYS)
}
_HEADER_LIMIT = 1 << 20  # bytes; real headers have some hundred, and with all tags of a DICOM image many thousand
_VOXEL_LIMIT = 1 << 31
_CHUNK = 1 << 20
_DIRECTION_TOLERANCE = 1e-3  # headers may give three digits


@dataclass
class _Header:
    values: dict[str, str] = field(default_factory=dict)
    data_start: int = 0  # byte after the ElementDataFile line, where LOCAL data begin
    problems: list[str] = field(default_factory=list)


def find_problems(path: Path) -> list[str]:
    """Look for everything that keeps a MetaImage from being read as what it says.

    Args:
        path: the header (.mhd) or single file (.mha).

    Returns:
        One sentence per problem, each naming the file, what was found, what was expected and what to do.
        Empty when the file can be read.
    """
    path = Path(path)
    if not path.is_file():
        return [f"{path}: no such file; check the name and the folder"]
    try:
        header = _parse_header(path)
        problems = header.problems
        if not problems:
            expected = _check_values(header)
            if not problems and expected:
                problems += _check_data(path, header, expected)
    except OSError as error:
        problems = [f"cannot be read ({error.strerror}); check its permissions and the disk"]
    return [f"{path}: {problem}" for problem in problems]


def read_header(path: Path) -> dict[str, str]:
    """Return the header's values by key as far as it can be read; `find_problems` says what is wrong with it."""
    return _parse_header(Path(path)).values


def read_shape(path: Path) -> tuple[int, ...]:
    """Return the three sizes that a header claims, read as SimpleITK reads them (2e3 is 2000); () where it has none."""
    size = _numbers(_parse_header(Path(path)), "DimSize", 3)
    return () if size is None else tuple(int(count) for count in size)


def _parse_header(path: Path) -> _Header:
    """Read `Key = value` lines up to ElementDataFile, which ends a header."""
    header = _Header()
    with path.open("rb") as stream:
        content = stream.read(_HEADER_LIMIT)
    position = 0
    for number, line in enumerate(re.finditer(rb"([^\r\n]*)(?:\r\n|\n|\r|\Z)", content), start=1):
        text = _decode(line.group(1)).strip()
        position = line.end()
        if not text:
            continue
        key, separator, value = _partition(text)
        # Any key is allowed: images made from DICOM carry its tags, e.g. '0008|0060 = MR'.
        if not separator or not key or not key.isprintable():
            header.problems.append(f"line {number} of the header is {text[:40]!r}, not 'Key = value'; "
                                   "correct the line, or the file is no MetaImage")
            return header
        canonical = _KNOWN_KEYS.get(re.sub(r"[\s_-]", "", key).lower(), key)
        if canonical != key:
            header.problems.append(f"header key {key!r} would be ignored; spell it {canonical!r}")
        elif key in _KNOWN_KEYS.values() and header.values.get(key, value) != value:
            header.problems.append(f"{key} is given twice, as {header.values[key]!r} and {value!r}; delete one")
        header.values[key] = value
        if canonical == "ElementDataFile":
            break
    header.data_start = position
    if not header.problems and "ElementDataFile" not in header.values:
        header.problems.append("the header has no ElementDataFile, so the file is cut short or no MetaImage; "
                               "copy it again from its source")
    return header


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")  # the file may begin with a byte order mark
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _partition(text: str) -> tuple[str, str, str]:
    # Found first, stripped then: one pattern for both takes hours for a megabyte of spaces.
    found = re.search("[=:]", text)
    return (text[:found.start()].rstrip(), found.group(), text[found.end():].lstrip()) if found else (text, "", "")


def _check_values(header: _Header) -> int:
    """Check the header's values; return the number of bytes the voxels need, 0 when that cannot be known."""
    values, problems = header.values, header.problems
    if values.get("ObjectType", "Image") != "Image":
        problems.append(f"ObjectType is {values['ObjectType']!r}, expected 'Image'; give an image volume")
    if values.get("NDims") != "3":
        problems.append(f"NDims is {values.get('NDims', 'missing')}, expected 3; give one 3-D volume a file")
        return 0
    if not _is_true(values.get("BinaryData", "True")):
        problems.append("voxels are stored as text (BinaryData = False), expected binary; write the file anew")
    channels = values.get("ElementNumberOfChannels", "1")
    if channels != "1":
        problems.append(f"ElementNumberOfChannels is {channels}, expected 1; extract one channel")
    kind = values.get("ElementType", "missing")
    if kind not in _ELEMENT_BYTES:
        problems.append(f"ElementType is {kind}, expected one of {', '.join(_ELEMENT_BYTES)}; "
                        "write the file anew with one of them")
    _check_geometry(header)
    size = _numbers(header, "DimSize", 3, required=True)
    if size is None or kind not in _ELEMENT_BYTES:
        return 0
    voxels = float(np.prod(size))
    if np.any(size < 1) or np.any(size != np.round(size)) or voxels > _VOXEL_LIMIT:
        problems.append(f"DimSize is {values['DimSize']!r}, expected three whole numbers from 1 "
                        f"and at most {_VOXEL_LIMIT} voxels; correct the header")
        return 0
    return int(voxels) * _ELEMENT_BYTES[kind]


def _check_geometry(header: _Header) -> None:
    values, problems = header.values, header.problems
    # ElementSize is the extent of a voxel, and stands in for the spacing where no spacing is given.
    spacing_key = "ElementSpacing" if "ElementSpacing" in values else "ElementSize"
    if spacing_key not in values:
        problems.append("the header has no ElementSpacing, so distances in mm are unknown; add the line "
                        "'ElementSpacing = X Y Z' in mm")
    else:
        spacing = _numbers(header, spacing_key, 3)
        if spacing is not None and np.any(spacing <= 0):
            problems.append(f"{spacing_key} is {values[spacing_key]!r}, expected three lengths above 0 mm; "
                            "correct the header")
    for keys in (_ORIGIN_KEYS, _DIRECTION_KEYS):
        given = [key for key in keys if key in values]
        count = 3 if keys is _ORIGIN_KEYS else 9
        numbers = [found for key in given if (found := _numbers(header, key, count)) is not None]
        if any(not np.allclose(numbers[0], other) for other in numbers[1:]):
            problems.append(f"{' and '.join(given)} mean the same and disagree; delete all but one")
        elif numbers and keys is _DIRECTION_KEYS:
            matrix = numbers[0].reshape(3, 3)
            error = float(np.abs(matrix @ matrix.T - np.eye(3)).max())
            if error > _DIRECTION_TOLERANCE:
                problems.append(f"{given[0]} is {values[given[0]]!r}, which is not orthonormal (off by {error:.2g}); "
                                "expected three perpendicular unit vectors; correct the header")


def _numbers(header: _Header, key: str, count: int, required: bool = False) -> np.ndarray | None:
    """Parse `count` finite numbers; a fault is added to the header's problems and gives None."""
    text = header.values.get(key)
    if text is None:
        if required:
            header.problems.append(f"the header has no {key}; add it, or copy the file again from its source")
        return None
    try:
        numbers = np.array([float(word) for word in text.split()])
    except ValueError:
        numbers = np.array([np.nan])
    if len(numbers) != count or not np.all(np.isfinite(numbers)):
        header.problems.append(f"{key} is {text!r}, expected {count} numbers separated by spaces; correct the header")
        return None
    return numbers


def _check_data(path: Path, header: _Header, expected: int) -> list[str]:
    """Compare the voxel data with the number of bytes that the header asks for."""
    values = header.values
    name = values["ElementDataFile"]
    if name.split(" ")[0] == "LIST" or "%" in name:
        return [f"voxels are spread over several files (ElementDataFile = {name}), which is not supported; "
                "write the volume as one file, e.g. SimpleITK.WriteImage(SimpleITK.ReadImage(old), new)"]
    is_local = name in ("LOCAL", "Local", "local")
    data_path = path if is_local else path.parent / name
    if not data_path.is_file():
        return [f"the voxel file {name!r} (ElementDataFile) is missing in {data_path.parent}; "
                "copy it next to the header under that name"]
    start = header.data_start if is_local else 0
    stored = data_path.stat().st_size - start
    what = "LOCAL voxel data" if is_local else f"the voxel file {name!r}"
    skipped_text = values.get("HeaderSize", "0")
    if not re.fullmatch(r"-1|[0-9]{1,18}", skipped_text):
        return [f"HeaderSize is {skipped_text[:40]!r}, expected -1 or a number of bytes; correct the header"]
    skipped = int(skipped_text)
    if _is_true(values.get("CompressedData", "False")):
        if skipped > 0:
            return [f"HeaderSize is {skipped} with compressed data, which SimpleITK misreads; store without either"]
        return _check_compressed(data_path, what, start, stored, expected, values, is_local)
    if skipped > 0 and is_local:
        return [f"HeaderSize is {skipped} with LOCAL data, which is not supported; store the voxels in a file"]
    if skipped == -1 and stored >= expected:
        return []
    expected += max(skipped, 0)
    return [] if stored == expected else [f"{what} has {stored} bytes, {_asked(expected, values)}; {_remedy(values)}"]


def _check_compressed(
    data_path: Path, what: str, start: int, stored: int, expected: int, values: dict[str, str], is_local: bool
) -> list[str]:
    declared = values.get("CompressedDataSize")
    if declared is None and is_local:
        return ["compressed LOCAL data need CompressedDataSize in the header, without which they are misread; "
                "write the file anew with SimpleITK"]
    if declared is not None and declared != str(stored):
        return [f"{what} has {stored} compressed bytes, CompressedDataSize asks for {declared}; "
                "copy header and voxel file again from their source"]
    try:
        found, is_complete, has_more = _unpack(data_path, start, expected)
    except zlib.error as error:
        return [f"{what} is a damaged zlib stream ({error}); copy it again from its source"]
    if found > expected:
        return [f"{what} unpacks to more bytes than it should, {_asked(expected, values)}; {_remedy(values)}"]
    if not is_complete:
        return [f"{what} is a zlib stream cut short after {found} of {expected} bytes; copy it again from its source"]
    if found != expected:
        return [f"{what} unpacks to {found} bytes, {_asked(expected, values)}; {_remedy(values)}"]
    if has_more:
        return [f"{what} goes on after the end of its zlib stream; copy it again from its source"]
    return []


def _unpack(path: Path, start: int, limit: int) -> tuple[int, bool, bool]:
    """Unpack a zlib or gzip stream piece by piece, and stop beyond `limit` bytes: a file may be made to explode.

    Returns:
        Bytes unpacked, whether the stream's end was reached, and whether bytes follow it.

    Raises:
        zlib.error: the stream or its checksum is damaged.
    """
    unpacker = zlib.decompressobj(wbits=47)  # 47: zlib or gzip, told by the stream's first bytes
    found = 0
    with path.open("rb") as stream:
        stream.seek(start)
        packed = stream.read(_CHUNK)
        while packed and not unpacker.eof and found <= limit:
            found += len(unpacker.decompress(packed, _CHUNK))
            packed = unpacker.unconsumed_tail or stream.read(_CHUNK)
    return found, unpacker.eof, bool(unpacker.unused_data or packed)


def _asked(expected: int, values: dict[str, str]) -> str:
    return f"the header asks for {expected} (DimSize {values['DimSize']}, {values['ElementType']})"


def _remedy(values: dict[str, str]) -> str:
    hint = " (MET_LONG has 4 bytes, MET_LONG_LONG has 8)" if values["ElementType"] in ("MET_LONG", "MET_ULONG") else ""
    return f"copy the volume again from its source, or correct the header{hint}"


def _is_true(text: str) -> bool:
    return text[:1] in ("T", "t", "1")
