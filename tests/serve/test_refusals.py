"""What is refused, from outside: uploads and requests, with the reason for the client and the one for the log."""

import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from src.data.data_manager import DataManager
from src.serve import app as app_module
from tests.inference.helpers import GRID, bright, bright_volume
from tests.serve.helpers import error_of, form, form_headers, header_of, serving, zipped


def metaimage(**changes: str) -> bytes:
    values = {"ObjectType": "Image", "NDims": "3", "DimSize": "30 28 20", "ElementSpacing": "1 1 1",
              "ElementType": "MET_SHORT", **changes, "ElementDataFile": "LOCAL"}
    header = "".join(f"{key} = {value}\n" for key, value in values.items()).encode()
    return header + bright_volume(GRID, (8, 9, 10))[0].tobytes("F")


def nifti(nan: bool, four: bool) -> bytes:
    array = np.random.default_rng(1).random((3, 4, 5, 6) if four else (20, 28, 30), np.float32)
    if nan:
        array[3, 4, 5] = np.nan
    with tempfile.TemporaryDirectory() as folder:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(Path(folder, "a.nii")))
        return Path(folder, "a.nii").read_bytes()


def skewed(content: bytes) -> bytes:
    """Return a NIfTI file whose axes are not at right angles."""
    found = bytearray(content)
    struct.pack_into("<2h", found, 252, 0, 1)
    struct.pack_into("<12f", found, 280, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0)
    return bytes(found)


@pytest.mark.parametrize(("name", "content", "status", "phrase"), [
    ("a.txt", b"text", 415, "expected .mha, .nii"),
    ("a.mha", b"", 400, "the file is empty"),
    ("a.mha", b"\0" * 1000, 422, "not 'Key = value'"),
    ("a.mha", metaimage()[:-1], 422, "has 33599 bytes, the header asks for 33600"),
    ("a.mha", metaimage(NDims="4", DimSize="3 3 3 3"), 422, "NDims is 4, expected 3"),
    ("a.mha", metaimage(ElementNumberOfChannels="3"), 422, "extract one channel"),
    ("a.mha", metaimage(DimSize="30 -28 20"), 422, "DimSize"),
    ("a.mha", metaimage(ElementSpacing="1e308 1e308 1e308"), 422, "a.mha: spacing (1e+308, 1e+308, 1e+308) mm"),
    ("a.mha", metaimage(HeaderSize="9" * 5000), 422, "HeaderSize is '999"),
    ("前" * 120 + ".mha", metaimage()[:-1], 422, "has 33599 bytes"),
    ("a.mha", metaimage(DimSize="3000 3000 3000"), 413, "3000 x 3000 x 3000 voxels, expected at most 200000"),
    ("a.nii", b"\0" * 1000, 422, "a.nii: no NIfTI header"),
    ("a.nii", nifti(nan=False, four=False)[:-5], 422, "bytes unpacked, the header asks for"),
    ("a.nii", nifti(nan=True, four=False), 422, "1 of 16800 voxels are not finite"),
    ("a.nii.gz", gzip.compress(nifti(nan=False, four=True), mtime=0), 422, "expected three dimensions"),
    ("a.nii.gz", gzip.compress(bytes(20 << 20), mtime=0), 422, "a.nii.gz: no NIfTI header"),
    ("a.nii.gz", gzip.compress(nifti(nan=False, four=False) + bytes(20 << 20), mtime=0), 413,
     "unpacks to more than 2 MiB"),
    ("a.nii", skewed(nifti(nan=False, four=False)), 422, "cannot read it (ITK only supports orthonormal direction"),
    ("a.mha", header_of(metaimage(ElementType="MET_UCHAR"), "MET_UCHAR", "MET_DOUBLE"), 422, "asks for"),
    ("a.mha", metaimage()[:95], 422, "no ElementDataFile"),
    ("a.zip", b"PK", 422, "cut short or no zip"),
    ("a.zip", zipped({"../../a.mhd": b"", "../../a.raw": b""}), 422, "leads out of the zip"),
])
def test_bad_uploads_get_a_reason(client, working_folder, name, content, status, phrase):
    answer = client.post(name, content)
    assert (answer[0], phrase in error_of(answer)) == (status, True), error_of(answer)
    assert str(working_folder) not in error_of(answer)
    assert "ITK ERROR" not in error_of(answer)
    assert list(working_folder.iterdir()) == []
    assert client.taken() == 0


def test_contents_that_are_no_image(client):
    constant = metaimage().replace(bright_volume(GRID, (8, 9, 10))[0].tobytes("F"), bytes(2 * 16800))
    assert "the image is constant" in error_of(client.post("a.mha", constant))
    label = metaimage().replace(bright_volume(GRID, (8, 9, 10))[0].tobytes("F"),
                                bright_volume(GRID, (8, 9, 10))[1].astype(np.int16).tobytes("F"))
    assert "holds 2 different values only (0, 1), so it is a label" in error_of(client.post("a.mha", label))


def test_an_image_that_is_blank_where_the_network_looks():
    edge = np.zeros((20, 28, 30), np.int16)  # z, y, x
    edge[:, :, 0] = np.arange(560).reshape(20, 28)
    with serving(bright(), DataManager((1.5, 1.5, 1.5), (16, 16, 16))) as client:
        answer = client.post("a.mha", metaimage()[:-2 * 16800] + edge.tobytes())
    assert (answer[0], "a.mha: no contrast in the centre block" in error_of(answer)) == (422, True)
    assert "check that the image is not blank around its centre, and its spacing, (1.0, 1.0, " in error_of(answer)
    assert "VolSize" not in error_of(answer)


@pytest.mark.parametrize(("body", "headers", "status", "phrase"), [
    (b"x", {"Content-Type": "application/octet-stream"}, 415, "curl -F file=@volume.nii.gz"),
    (b"x", {"Content-Type": "multipart/form-data"}, 400, "form is broken"),
    (b"x", form_headers(), 400, "form"),
    (form("a.mha", b"x").replace(b'"file"', b'"fille"'), form_headers(), 400, "no file in the field 'file'"),
    (form("", b"x"), form_headers(), 400, "no file in the field 'file'"),
    *((form(r"\ud800.txt", b"x"), {"Content-Type": f"{form_headers()['Content-Type']}; charset={charset}"}, 400,
       f"charset is {charset}, expected utf-8 or none") for charset in
      ("raw_unicode_escape", "unicode_escape", "utf-7", "undefined", "latin-1")),
    (form(r"\ud800.txt", b"x"), {"Content-Type": f"{form_headers()['Content-Type']}; charset=\"UTF-8\""}, 415,
     "no volume; expected .mha"),
    (form("a.mha", b"x").replace(b"--\r\n", b"\r\n") + form("b.mha", b"x"), form_headers(), 400, "form is broken"),
])
def test_requests_that_are_no_upload(client, body, headers, status, phrase):
    answer = client.post_raw(body, headers)
    assert (answer[0], phrase in error_of(answer)) == (status, True), error_of(answer)


def test_a_refusal_is_printable_and_its_name_is_not_logged(client, caplog):
    caplog.set_level("INFO")
    for name, content, phrase in (("Smith\x1b[2J.txt", b"x", "Smith__2J.txt: no volume"),
                                  ("Smith.mha", metaimage()[:-1], "Smith.mha: "),
                                  ("Smith.mha", b"Jones = \x1b[2J\xc2\x9b\n" * 9, "Smith.mha: "),
                                  ("Smith.mha", b"Jones \x1b[2J\xc2\x9b\n" * 9, "'Jones ")):
        answer = client.post(name, content)
        assert answer[0] in (415, 422)
        assert phrase in error_of(answer)
        assert all(letter.isprintable() or letter == "\n" for letter in error_of(answer))
        told = [record.getMessage() for record in caplog.records if record.name == "src.serve.app"][-1]
        assert told.startswith(f"/predict refused ({answer[0]}): ")
        assert told.isprintable()
    assert "33600" in caplog.text  # what was wrong is logged
    assert "Smith" not in caplog.text
    assert "Jones" not in caplog.text


def test_an_error_while_a_refusal_is_put_in_words_is_answered_and_counted(monkeypatch):
    put = app_module._refused
    with serving(bright()) as client:
        monkeypatch.setattr(app_module, "_refused", lambda refusal: 1 / 0 if refusal.status == 415 else put(refusal))
        answer = client.post("a.txt", b"x")
        assert (answer[0], "the service failed; its log tells more" in error_of(answer)) == (500, True)
        assert b'vnet_requests_total{path="/predict",status="500"} 1.0' in client.get("/metrics")[2]


def test_a_spacing_that_would_need_an_absurd_grid(tmp_path, volume):
    whole = DataManager((1.5, 1.5, 1.5), (32, 32, 32), whole=True)
    with serving(bright(), whole, voxels=200_000) as client:
        answer = client.post("a.mha", metaimage(ElementSpacing="1000 1000 1000"))
        assert (answer[0], "check the spacing in its header" in error_of(answer)) == (413, True)
        assert client.post("a.nii.gz", volume)[0] == 200
