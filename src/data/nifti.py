"""Checks of NIfTI files (.nii, .nii.gz) before SimpleITK reads them.

SimpleITK fills up a file cut short silently, and reads NaN and infinity as 0.

Header layout: NIfTI-1 and NIfTI-2, https://nifti.nimh.nih.gov. Single files only, no .hdr/.img pairs.
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

SUFFIXES = (".nii", ".nii.gz")

_CHUNK = 1 << 20
_HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348, and whoever reads 540 of it reads voxels as well
_COPY = "copy it again from its source"
# Bits of a voxel by the code of its type, of whole and real numbers
_BITS = {2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64}
_REAL = {16: "f4", 64: "f8"}
_ROUNDING = 1e-4  # of a quaternion in float32


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    kind: int  # code of the voxels' type
    bits: int  # of a voxel
    offset: float  # byte at which the voxels begin
    order: str  # of the bytes, < or >


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


def read_shape(path: Path) -> tuple[int, ...]:
    """Return the shape that the header of an unpacked file claims, whatever follows it; () where there is no header."""
    with Path(path).open("rb") as stream:
        found = _parse_header(stream.read(_HEADER_BYTES))
    return () if isinstance(found, str) else found.shape


def _parse_header(header: bytes) -> _Header | str:
    """Return what the header says, or what is wrong with it."""
    order = next((mark for mark in "<>" if len(header) >= 348 and
                  struct.unpack_from(f"{mark}i", header)[0] in (348, _HEADER_BYTES)), None)
    if order is None:
        return f"no NIfTI header; check the file's name, or {_COPY}"
    is_first_version = struct.unpack_from(f"{order}i", header)[0] == 348
    magic = header[344:347] if is_first_version else header[4:7]
    if magic != (b"n+1" if is_first_version else b"n+2"):
        return f"the header's magic is {magic!r}, so it is Analyze or damaged and its geometry is lost; {_COPY}"
    if is_first_version:
        dim = struct.unpack_from(f"{order}8h", header, 40)
        kind, bits = struct.unpack_from(f"{order}2h", header, 70)
        offset = struct.unpack_from(f"{order}f", header, 108)[0]
    else:
        dim = struct.unpack_from(f"{order}8q", header, 16)
        kind, bits = struct.unpack_from(f"{order}2h", header, 12)
        offset = struct.unpack_from(f"{order}q", header, 168)[0]
    least = 352 if is_first_version else 544
    if not least <= offset < math.inf:
        return (f"the header's vox_offset is {offset}, expected the byte at which the voxels begin, {least} or more; "
                f"{_COPY}")
    # Complex numbers and colours: SimpleITK would drop the imaginary part without a word.
    if kind not in _BITS:
        return (f"the header's datatype is {kind}, expected whole or real numbers ({', '.join(map(str, _BITS))}); "
                "store the magnitude, or one channel")
    if problem := _geometry_problem(header, order, is_first_version):
        return f"{problem}; correct the header, or {_COPY}"
    if bits != _BITS[kind]:
        return f"the header's bitpix is {bits}, and voxels of its datatype {kind} have {_BITS[kind]} bits; {_COPY}"
    return _Header(dim[1 : 1 + max(0, min(dim[0], 7))], kind, bits, offset, order)


def _geometry_problem(header: bytes, order: str, is_first_version: bool) -> str:
    """Say what is wrong with spacing and orientation, for which SimpleITK would put in values of its own; or ""."""
    if is_first_version:
        pixdim = struct.unpack_from(f"{order}3f", header, 80)
        codes = struct.unpack_from(f"{order}2h", header, 252)
        places = struct.unpack_from(f"{order}18f", header, 256)
    else:
        pixdim = struct.unpack_from(f"{order}3d", header, 112)
        codes = struct.unpack_from(f"{order}2i", header, 344)
        places = struct.unpack_from(f"{order}18d", header, 352)
    if not all(0 < value < math.inf for value in pixdim):
        return f"the header's pixdim is {pixdim}, expected three spacings above 0 mm"
    quaternion, offset, rows = places[:3], places[3:6], places[6:]
    # Its first number is the square root of what the others leave of 1.
    if codes[0] > 0 and not (sum(value**2 for value in quaternion) <= 1 + _ROUNDING
                             and all(map(math.isfinite, offset))):
        return (f"the header's qform has quaternion {quaternion} and offset {offset}, expected finite numbers, the "
                "former's squares with a sum of 1 at most")
    if codes[1] > 0 and not all(map(math.isfinite, rows)):
        return f"the header's sform has the rows {rows}, expected finite numbers"
    return ""


def _check(stream: BinaryIO, channels: int) -> str:
    start = stream.read(_HEADER_BYTES)
    header = _parse_header(start)
    if isinstance(header, str):
        return header
    shape, offset = header.shape, int(header.offset)
    if len(shape) < 3 or min(shape) < 1 or math.prod(shape[3:]) != channels or max((1, *shape[4:])) > 1:
        remedy = ("expected three dimensions; extract one 3-D volume" if channels == 1 else
                  f"expected x, y, z and {channels} channels; join the modalities into one 4-D file")
        return f"the volume's shape is {shape}, {remedy}"
    expected = offset + math.prod(shape) * header.bits // 8
    found, bad = len(start), 0
    voxels = start[offset:expected]
    # Reading to the end also makes gzip compare its checksum.
    while piece := stream.read(_CHUNK):
        if header.kind in _REAL:
            voxels += piece[max(offset - found, 0):max(expected - found, 0)]
            whole = len(voxels) - len(voxels) % (header.bits // 8)
            bad += _count_not_finite(voxels[:whole], header)
            voxels = voxels[whole:]
        found += len(piece)
    if found < expected:
        return f"{found} bytes unpacked, the header asks for {expected} (shape {shape}, {header.bits} bits); {_COPY}"
    # Of a volume that is all in the first bytes
    bad += _count_not_finite(voxels, header) if header.kind in _REAL else 0
    if bad:
        return (f"{bad} of {math.prod(shape)} voxels are not finite (NaN or infinity); replace them, or leave the case "
                "out")
    return ""


def _count_not_finite(voxels: bytes, header: _Header) -> int:
    return int(np.count_nonzero(~np.isfinite(np.frombuffer(voxels, header.order + _REAL[header.kind]))))
