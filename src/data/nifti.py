"""Checks of NIfTI files (.nii, .nii.gz) before SimpleITK reads them; SimpleITK fills up a file cut short silently.

Header layout: NIfTI-1 and NIfTI-2, https://nifti.nimh.nih.gov. Single files only, no .hdr/.img pairs.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

SUFFIXES = (".nii", ".nii.gz")

_CHUNK = 1 << 20
_COPY = "copy it again from its source"


def find_problems(path: Path, channels: int = 1) -> list[str]:
    """Look for everything that keeps a NIfTI file from being read as one whole volume.

    Args:
        path: of the file.
        channels: 1 for a 3-D volume; more for a 4-D one with as many along its last axis.

    Returns:
        One sentence per problem, naming the file and what to do; empty when the file can be read.
    """
    path = Path(path)
    if not path.is_file():
        return [f"{path}: no such file; check the name and the folder"]
    try:
        if path.name.lower().endswith(".gz"):
            with gzip.open(path) as packed:
                problem = _check(cast(BinaryIO, packed), channels)
        else:
            with path.open("rb") as plain:
                problem = _check(plain, channels)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"damaged or cut short gzip stream ({error}); {_COPY}"
    except OSError as error:
        problem = f"cannot be read ({error.strerror}); check its permissions and the disk"
    return [f"{path}: {problem}"] if problem else []


def _check(stream: BinaryIO, channels: int) -> str:
    header = stream.read(540)
    order = next((mark for mark in "<>" if len(header) >= 348 and
                  struct.unpack_from(f"{mark}i", header)[0] in (348, 540)), None)
    if order is None:
        return f"no NIfTI header; check the file's name, or {_COPY}"
    is_first_version = struct.unpack_from(f"{order}i", header)[0] == 348
    magic = header[344:347] if is_first_version else header[4:7]
    if magic != (b"n+1" if is_first_version else b"n+2"):
        return f"the header's magic is {magic!r}, so it is Analyze or damaged and its geometry is lost; {_COPY}"
    if is_first_version:
        dim = struct.unpack_from(f"{order}8h", header, 40)
        bits = struct.unpack_from(f"{order}h", header, 72)[0]
        offset = struct.unpack_from(f"{order}f", header, 108)[0]
    else:
        dim = struct.unpack_from(f"{order}8q", header, 16)
        bits = struct.unpack_from(f"{order}h", header, 14)[0]
        offset = struct.unpack_from(f"{order}q", header, 168)[0]
    if not math.isfinite(offset) or offset < 0:
        return f"the header's vox_offset is {offset}, expected the byte at which the voxels begin; {_COPY}"
    shape = dim[1 : 1 + max(0, min(dim[0], 7))]
    if len(shape) < 3 or min(shape) < 1 or math.prod(shape[3:]) != channels or max((1, *shape[4:])) > 1:
        remedy = ("expected three dimensions; extract one 3-D volume" if channels == 1 else
                  f"expected x, y, z and {channels} channels; join the modalities into one 4-D file")
        return f"the volume's shape is {shape}, {remedy}"
    expected = int(offset) + math.prod(shape) * bits // 8
    found = len(header)
    # Reading to the end also makes gzip compare its checksum.
    while piece := stream.read(_CHUNK):
        found += len(piece)
    if found < expected:
        return f"{found} bytes unpacked, the header asks for {expected} (shape {shape}, {bits} bits); {_COPY}"
    return ""
