"""Uploads on disk: what is taken, and what is refused before anything of its size is made."""

import errno
import gzip
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from src.data.volume_files import read_volume
from src.serve import unpack as unpack_module
from src.serve.limits import Limits, Refusal
from src.serve.unpack import clean_name, unpack
from tests.inference.helpers import GRID, bright_volume
from tests.serve.helpers import bright_file, zipped

LIMITS = Limits(voxels=100_000)
HEADER = (b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n"
          b"ElementDataFile = a.raw\n")
LOCAL = HEADER.replace(b"a.raw", b"LOCAL")


def long_nifti(size: int) -> bytes:
    """Return a NIfTI file of one voxel with zeros behind them, `size` bytes in all."""
    start = bytearray(348)
    struct.pack_into("<i", start, 0, 348)
    struct.pack_into("<4h", start, 40, 3, 1, 1, 1)
    struct.pack_into("<2h", start, 70, 2, 8)
    struct.pack_into("<3f", start, 80, 1, 1, 1)
    struct.pack_into("<f", start, 108, 352)
    start[344:348] = b"n+1\0"
    return bytes(start) + bytes(size - 348)


def refused(name: str, content: bytes, folder, limits: Limits = LIMITS) -> Refusal:
    with pytest.raises(Refusal) as caught:
        unpack(io.BytesIO(content), name, folder, limits)
    return caught.value


@pytest.mark.parametrize("name", ["a b.mha", "ä.nii", "d.nii.gz", "e.zip"])
def test_what_is_stored_is_what_was_sent(name, tmp_path):
    (tmp_path / "in").mkdir()
    case = unpack(io.BytesIO(bright_file(tmp_path, name)), name, tmp_path / "in", LIMITS)
    assert case.case_id == name.replace(".zip", ".mhd")
    np.testing.assert_array_equal(read_volume(case.image_path)[0], bright_volume(GRID, (8, 9, 10))[0])


def test_suffixes_may_have_capitals(tmp_path):
    (tmp_path / "in").mkdir()
    case = unpack(io.BytesIO(bright_file(tmp_path, "c.nii.gz")), "C.NII.gz", tmp_path / "in", LIMITS)
    assert (case.case_id, case.image_path.name) == ("C.nii.gz", "C.nii")
    array, geometry = read_volume(case.image_path)
    np.testing.assert_array_equal(array, bright_volume(GRID, (8, 9, 10))[0])
    assert geometry.differences(GRID) == []


@pytest.mark.parametrize(("given", "expected"), [
    ("Case00", "Case00"), ("Größe 1.2(b)", "Größe 1.2(b)"), ("..", "volume"), ("", "volume"), (".hidden", "hidden"),
    ("a/b\\c:d\0e\n\"f", "a_b_c_d_e__f"), ("x" * 300, "x" * 100), ("a. ", "a"),
    ("前列腺" * 60, "前列腺" * 16 + "前列")])
def test_names_are_harmless(given, expected):
    assert clean_name(given) == expected


@pytest.mark.parametrize("name", ["../../x.mha", "/etc/x.mha", "..\\..\\x.mha", "C:\\x\\x.mha"])
def test_a_path_in_the_name_is_dropped(name, tmp_path):
    (tmp_path / "in").mkdir()
    case = unpack(io.BytesIO(LOCAL + bytes(8)), name, tmp_path / "in", LIMITS)
    assert case.image_path == tmp_path / "in" / "x.mha"


@pytest.mark.parametrize(("name", "content", "status", "phrases"), [
    ("a.txt", b"hello", 415, ["a.txt: no volume; expected .mha, .nii, .nii.gz"]),
    (".mha", b"hello", 415, ["no volume"]),
    ("a.mhd", HEADER, 415, ["header alone", "send a .zip"]),
    ("a.mha", b"", 400, ["a.mha is empty"]),
    ("a.nii.gz", gzip.compress(b"", mtime=0), 400, ["empty"]),
    ("a.nii.gz", b"no gzip", 422, ["a.nii.gz: damaged or cut short gzip stream"]),
    ("a.nii.gz", gzip.compress(bytes(5000), mtime=0), 422, ["a.nii.gz: no NIfTI header"]),
    ("a.nii.gz", gzip.compress(long_nifti(5000), mtime=0)[:-9], 422, ["a.nii.gz: damaged or cut short"]),
    ("a.nii.gz", gzip.compress(long_nifti(3 << 20), mtime=0), 413, ["a.nii.gz unpacks to more than 1 MiB", "crop it"]),
    ("a.mha", HEADER, 422, ["its voxels are in 'a.raw'", "expected LOCAL"]),
    ("a.mha", HEADER.replace(b"a.raw", b"/etc/passwd"), 422, ["'/etc/passwd'", "expected LOCAL"]),
    ("a.mha", LOCAL.replace(b"2 2 2", b"50 50 41"), 413, ["50 x 50 x 41 voxels, expected at most 100000"]),
    ("a.mha", LOCAL.replace(b"2 2 2", b"9" * 20 + b" 1 1"), 413, ["expected at most"]),
    ("a.mha", LOCAL.replace(b"2 2 2", b"+50 5e1 41.0"), 413, ["50 x 50 x 41 voxels, expected at most 100000"]),
    ("a.zip", b"no zip", 422, ["cut short or no zip"]),
    ("a.zip", zipped({}), 422, ["the zip holds no file"]),
    ("a.zip", zipped({"a.mha": HEADER}), 422, ["holds a.mha; send that file itself"]),
    ("a.zip", zipped({"a.mhd": HEADER}), 422, ["holds a.mhd; expected one .mhd and its voxel file"]),
    ("a.zip", zipped({"a.mhd": HEADER, "a.raw": bytes(8), "b.txt": b""}), 422, ["a.raw, b.txt", "nothing else"]),
    ("a.zip", zipped({"a.mhd": HEADER, "b.raw": bytes(8)}), 422, ["voxels are in 'a.raw'", "the zip has 'b.raw'"]),
    ("a.zip", zipped({"../a.mhd": HEADER, "../a.raw": bytes(8)}), 422, ["../a.mhd leads out of the zip"]),
    ("a.zip", zipped({"/a.mhd": HEADER, "/a.raw": bytes(8)}), 422, ["/a.mhd leads out of the zip"]),
    ("a.zip", zipped({"c:\\a.mhd": HEADER, "c:\\a.raw": bytes(8)}), 422, ["leads out of the zip"]),
    ("a.zip", zipped({"a.mhd": HEADER.replace(b"a.raw", b"../a.raw"), "a.raw": bytes(8)}), 422, ["'../a.raw'"]),
    ("a.zip", zipped({"a.mhd": HEADER.replace(b"a.raw", b"/etc/passwd"), "a.raw": bytes(8)}), 422, ["'/etc/passwd'"]),
    ("a.zip", zipped({"a.mhd": HEADER.replace(b"a.raw", b"a.mhd"), "a.raw": bytes(8)}), 422, ["'a.mhd'"]),
    ("a.zip", zipped({"a.mhd": LOCAL, "a.raw": bytes(8)}), 422, ["'LOCAL'"]),
    ("a.zip", zipped({"a.mhd": HEADER.replace(b"2 2 2", b"999 999 999"), "a.raw": bytes(8)}), 413,
     ["999 x 999 x 999 voxels"]),
    ("a.zip", zipped({"a.mhd": HEADER, "a.raw": bytes(3 << 20)}, compression=zipfile.ZIP_DEFLATED), 413,
     ["a.raw unpacks to more than 1 MiB"]),
    ("a.zip", zipped({"a.mhd": bytes(2 << 20), "a.raw": b""}, compression=zipfile.ZIP_DEFLATED), 413,
     ["the header a.mhd has 2097152 bytes"]),
    ("a.zip", zipped({"a.mhd": HEADER, "a.raw": bytes(8)}, compression=zipfile.ZIP_LZMA), 422, ["unusual method"]),
    ("a.zip", zipped({f"{number}.txt": b"" for number in range(1500)}), 422, ["more members than a volume"]),
    ("a.zip", zipped({"a.mhd": HEADER, "a.raw": bytes(8)})[:-30], 422, ["cut short or no zip"]),
    ("a.zip", zipped({"a.mhd": HEADER, "a.raw": bytes(8)}).replace(bytes(8), b"\1" + bytes(7), 1), 422, ["damaged"]),
])
def test_refusals(name, content, status, phrases, tmp_path):
    limits = Limits(voxels=100_000) if "unpacks" not in phrases[0] else Limits(voxels=1)
    found = refused(name, content, tmp_path, limits)
    assert found.status == status, found.reason
    for phrase in phrases:
        assert phrase in found.reason
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 << 20


def test_a_zip_may_have_a_folder_and_what_systems_add(tmp_path):
    content = zipped({"Case/": b"", "Case/a.mhd": HEADER, "Case/a.raw": bytes(8), "__MACOSX/Case/._a.mhd": b"x",
                      "Case/.DS_Store": b"x"})
    case = unpack(io.BytesIO(content), "whatever.zip", tmp_path, LIMITS)
    assert case.image_path == tmp_path / "a.mhd"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mhd", "a.raw"]


def test_a_header_that_unpacks_to_more_than_the_list_says_takes_no_memory(tmp_path):
    content = bytearray(zipped({"a.mhd": bytes(32 << 20), "a.raw": b"1"}, compression=zipfile.ZIP_DEFLATED,
                               compresslevel=1))
    for mark, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<I", content, content.find(mark) + place, 100)
    tracemalloc.start()
    try:
        found = refused("a.zip", bytes(content), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert (found.status, "damaged" in found.reason) == (422, True)


def test_a_full_disk_is_not_the_uploads_fault(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unpack_module, "_copy", fail)
    with pytest.raises(OSError, match="No space"):
        unpack(io.BytesIO(gzip.compress(long_nifti(600), mtime=0)), "a.nii.gz", tmp_path, LIMITS)


def test_an_encrypted_member_is_told(tmp_path):
    content = bytearray(zipped({"a.mhd": HEADER, "a.raw": bytes(8)}))
    content[content.find(b"PK\1\2") + 8] |= 1
    assert "a.mhd is encrypted" in refused("a.zip", bytes(content), tmp_path).reason


def test_a_header_of_nifti_with_absurd_sizes(tmp_path):
    content = bytearray(bright_file(tmp_path, "x.nii"))
    struct.pack_into("<4h", content, 40, 3, 32767, 32767, 32767)
    found = refused("a.nii", bytes(content), tmp_path)
    assert (found.status, "32767 x 32767 x 32767 voxels" in found.reason) == (413, True)
    # Packed, it is refused before what follows it is unpacked.
    found = refused("b.nii.gz", gzip.compress(bytes(content) + bytes(1 << 20), mtime=0), tmp_path)
    assert (found.status, "b.nii.gz: the header says 32767 x 32767 x 32767 voxels" in found.reason) == (413, True)
    assert (tmp_path / "b.nii").stat().st_size == 540


@pytest.mark.parametrize(("name", "content"), [
    ("Smith.txt", b"x"), ("Smith.mhd", HEADER), ("Smith.mha", b""), ("Smith.nii.gz", b"x"),
    ("Smith.mha", HEADER.replace(b"a.raw", b"Smith.raw")), ("Smith.nii.gz", gzip.compress(bytes(5000), mtime=0)),
    ("Smith.nii.gz", gzip.compress(long_nifti(13 << 17), mtime=0)),
    ("Smith.mha", LOCAL.replace(b"2 2 2", b"50 50 41")), ("a.zip", zipped({"Smith.mha": HEADER})),
    ("a.zip", zipped({"../Smith.mhd": HEADER, "../Smith.raw": bytes(8)})),
    ("a.zip", zipped({"Smith.mhd": HEADER, "Smith.raw": bytes(8)})),
    ("a.zip", zipped({"Smith.mhd": HEADER, "Smith.raw": bytes(8)}, compression=zipfile.ZIP_LZMA)),
    ("a.zip", zipped({"Smith.mhd": bytes(2 << 20), "a.raw": b""})),
    ("a.zip", zipped({"Smith.mhd": HEADER, "Smith.raw": b"x"}).replace(b"Smith.mhd", b"Smyth.mhd", 1)),
])
def test_names_are_told_to_the_client_and_not_to_the_log(name, content, tmp_path):
    found = refused(name, content, tmp_path, Limits(voxels=1000))
    assert "Smith" in found.reason
    assert "Smith" not in found.logged
    assert len(found.logged) > 30  # it says what was wrong all the same


def test_a_limit_is_met_exactly(tmp_path):
    content = LOCAL + bytes(8)
    unpack(io.BytesIO(content), "a.mha", tmp_path, Limits(voxels=8))
    assert refused("a.mha", content, tmp_path, Limits(voxels=7)).status == 413
