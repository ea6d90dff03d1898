"""From an uploaded file to a volume on disk that is worth reading.

An upload is whatever somebody sends. So names are only ever used as names, never as paths; nothing is unpacked beyond a
limit; and what a header claims is looked at before anything of that size is made.
"""

import gzip
import math
import re
import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from src.data import metaimage, nifti
from src.data.case import Case, split_volume_name
from src.serve.limits import MIB, Limits, Refusal, from_upload

KINDS = ".mha, .nii, .nii.gz, or a .zip of a .mhd and its voxel file"
# Of a zip's list of members, some 50 bytes each: a volume has two, and zipfile makes an object of every one.
_LIST_BYTES = 1 << 16
_END_BYTES = 22
_COMMENT_BYTES = 1 << 16
_NIFTI_BYTES = 540  # of the longer of the two headers
_NAME_LENGTH = 100
_NAME_BYTES = 150  # file systems have 255, for stem, suffix and what is put before and after them
_JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")  # what operating systems add to zips by themselves


def unpack(stream: BinaryIO, name: str, folder: Path, limits: Limits) -> Case:
    """Store an upload in `folder`, unpacked.

    Args:
        stream: of the uploaded bytes.
        name: that the client gave the file; its suffix says what it is.
        folder: empty.
        limits: `voxels` and `unpacked_bytes` count.

    Returns:
        The volume, which may still be damaged. Its case id has the suffix of the mask to be.

    Raises:
        Refusal: 400, 413, 415 or 422, with the reason.
    """
    name = PurePosixPath(name.replace("\\", "/")).name
    if name.lower().endswith(".zip"):
        case = _unpack_zip(stream, folder, limits)
    else:
        stem, suffix = split_volume_name(name)
        suffix = suffix.lower()  # SimpleITK writes no .NII
        shown = from_upload(clean_name(name)) if name else "the file"
        if suffix == ".mhd":
            raise Refusal(415, f"{shown}: a .mhd is the header alone, without the voxels; send a .zip of it and its "
                               "voxel file, or a .mha")
        if not suffix:
            raise Refusal(415, f"{shown}: no volume; expected {KINDS}. DICOM and other formats can be "
                               "converted, e.g. with SimpleITK")
        case = _store(stream, clean_name(stem), suffix, folder, limits)
    _check_claims(case.image_path, limits)
    return case


def clean_name(stem: str) -> str:
    """Return a file's stem with letters, digits, spaces and ._()- alone, neither hidden, empty nor too long."""
    name = re.sub(r"[^\w.() -]", "_", stem).strip(". ")[:_NAME_LENGTH]
    return name.encode()[:_NAME_BYTES].decode(errors="ignore").strip(". ") or "volume"


def _store(stream: BinaryIO, stem: str, suffix: str, folder: Path, limits: Limits) -> Case:
    packed = suffix == ".nii.gz"
    path = folder / f"{stem}{'.nii' if packed else suffix}"
    with path.open("wb") as target:
        if not packed:
            shutil.copyfileobj(stream, target, MIB)
        else:
            # Unpacked once and with a limit, it is read faster than as it came, and cannot explode.
            try:
                with gzip.open(stream) as source:
                    target.write(source.read(_NIFTI_BYTES))
                    target.flush()
                    _check_start(path, f"{stem}{suffix}", limits)
                    _copy(cast(BinaryIO, source), target, limits.unpacked_bytes, f"{stem}{suffix}")
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise Refusal(422, f"{from_upload(stem + suffix)}: damaged or cut short gzip stream ({error}); copy it "
                                   "again from its source") from error
    return Case(f"{stem}{suffix}", path)


def _check_start(path: Path, name: str, limits: Limits) -> None:
    """Look at a header before what follows it is unpacked, which may be some hundred times what was sent."""
    shape = nifti.read_shape(path)
    if path.stat().st_size and not shape:
        (problem,) = nifti.find_problems(path)
        raise Refusal(422, f"{from_upload(name)}: {problem.removeprefix(f'{path}: ')}")
    _check_shape(shape, name, limits)


def _unpack_zip(stream: BinaryIO, folder: Path, limits: Limits) -> Case:
    _check_list(stream)
    try:
        with zipfile.ZipFile(stream) as archive:
            header, case = _unpack_header(archive, folder)
            _unpack_voxels(archive, header, case.image_path, limits)
    # NotImplementedError and RuntimeError: features of zip that Python does not have, and passwords.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise Refusal(422, f"the zip is damaged ({from_upload(str(error))}); make it anew") from error
    return case


def _check_list(stream: BinaryIO) -> None:
    """Look at how long a zip's list of members is, before zipfile reads it."""
    size = stream.seek(0, 2)
    stream.seek(max(size - _END_BYTES - _COMMENT_BYTES - 20, 0))
    tail = stream.read()
    stream.seek(0)
    plain = len(tail) - _END_BYTES
    end = plain if plain >= 0 and tail[plain:].startswith(b"PK\5\6") else tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) < end + _END_BYTES:
        raise Refusal(422, "the zip has no list of members at its end, so it is cut short or no zip; make it anew")
    is_large = tail[max(end - 20, 0):end].startswith(b"PK\6\7")  # zip64, whose numbers stand elsewhere
    if is_large or int.from_bytes(tail[end + 12:end + 16], "little") > _LIST_BYTES:
        raise Refusal(422, "the zip has more members than a volume, or is a zip64; expected a .mhd and its voxel file "
                           "only")


def _unpack_header(archive: zipfile.ZipFile, folder: Path) -> tuple[zipfile.ZipInfo, Case]:
    members = _members(archive)
    headers = [member for member in members if member.filename.lower().endswith(".mhd")]
    listed = ", ".join(member.filename for member in members[:5]) + (", …" if len(members) > 5 else "")
    if len(headers) != 1 or len(members) != 2:
        single = len(members) == 1 and split_volume_name(members[0].filename)[1].lower() not in ("", ".mhd")
        remedy = "send that file itself" if single else "expected one .mhd and its voxel file, nothing else"
        raise Refusal(422, f"the zip holds {from_upload(listed) if listed else 'no file'}; {remedy}")
    for member in members:
        parts = re.split(r"[/\\]", member.filename)
        shown = from_upload(member.filename)
        if ".." in parts or not parts[0] or ":" in parts[0]:
            raise Refusal(422, f"the zip's member {shown} leads out of the zip; expected plain file names")
        if member.flag_bits & 1:
            raise Refusal(422, f"the zip's member {shown} is encrypted; make the zip without a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refusal(422, f"the zip's member {shown} is compressed by an unusual method; make the zip with "
                               "plain deflate")
    (header,) = headers
    if header.file_size > MIB:
        raise Refusal(413, f"the header {from_upload(header.filename)} has {header.file_size} bytes, expected at most "
                           f"{MIB}; is it a .mha? Then name it so and send it itself")
    stem, _ = split_volume_name(PurePosixPath(header.filename).name)
    path = folder / f"{clean_name(stem)}.mhd"
    with archive.open(header) as source:
        # With a length: without one zipfile unpacks first, and cuts to the size that the list claims then.
        path.write_bytes(source.read(MIB))
    return header, Case(path.name, path)


def _unpack_voxels(archive: zipfile.ZipFile, header: zipfile.ZipInfo, path: Path, limits: Limits) -> None:
    """Put the voxel file beside the header, under the name that the header calls it by."""
    (voxels,) = (member for member in _members(archive) if member.filename != header.filename)
    named = metaimage.read_header(path).get("ElementDataFile", "")
    expected = str(PurePosixPath(header.filename).with_name(named)) if _is_plain_name(named) else None
    if expected != voxels.filename or named == path.name:
        raise Refusal(422, f"{from_upload(header.filename)} says that its voxels are in "
                           f"{from_upload(repr(named or 'no file'))} (ElementDataFile), and the zip has "
                           f"{from_upload(repr(voxels.filename))}; the name has to be that of the file beside the "
                           "header")
    with archive.open(voxels) as source, (path.parent / named).open("xb") as target:
        _copy(cast(BinaryIO, source), target, limits.unpacked_bytes, voxels.filename)


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [member for member in archive.infolist()
            if not member.is_dir() and not set(PurePosixPath(member.filename).parts) & set(_JUNK)
            and not PurePosixPath(member.filename).name.startswith(".")]


def _is_plain_name(name: str) -> bool:
    return (0 < len(name.encode()) <= 200 and name.isprintable() and not set(name) & set("/\\%:")
            and name not in (".", ".."))


def _copy(source: BinaryIO, target: BinaryIO, limit: int, name: str) -> None:
    found = 0
    while piece := source.read(MIB):
        found += len(piece)
        if found > limit:
            raise Refusal(413, f"{from_upload(name)} unpacks to more than {limit // MIB} MiB; send a smaller volume: "
                               "crop it, or store it with fewer bytes a voxel")
        target.write(piece)


def _check_claims(path: Path, limits: Limits) -> None:
    """Refuse what is empty, larger than allowed by its own header, or has its voxels elsewhere."""
    if not path.stat().st_size:
        raise Refusal(400, f"{from_upload(path.name)} is empty; check the file, and send it again")
    if path.suffix == ".nii":
        shape = nifti.read_shape(path)
    else:
        named = metaimage.read_header(path).get("ElementDataFile", "LOCAL")
        if path.suffix == ".mha" and named.upper() != "LOCAL":
            raise Refusal(422, f"{from_upload(path.name)} says that its voxels are in {from_upload(repr(named))} "
                               "(ElementDataFile), expected LOCAL; send a .zip of header and voxel file, or write "
                               "it as one .mha")
        shape = metaimage.read_shape(path)
    _check_shape(shape, path.name, limits)


def _check_shape(shape: tuple[int, ...], name: str, limits: Limits) -> None:
    if math.prod(max(count, 0) for count in shape) > limits.voxels:
        raise Refusal(413, f"{from_upload(name)}: the header says {' x '.join(map(str, shape))} voxels, expected at "
                           f"most {limits.voxels} in all; crop or resample the volume")
