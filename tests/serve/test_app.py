"""The service from outside: masks, refusals, limits, several clients, and clients that leave."""

import json
import socket
import threading
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from src.inference.volumes import predict_volumes
from src.serve import view as view_module
from src.serve.segmenter import Segmenter
from tests.inference.helpers import MANAGER, FunctionPredictor, bright
from tests.serve.helpers import (
    PAGE,
    Gate,
    bright_file,
    error_of,
    form,
    form_headers,
    in_background,
    serving,
    source,
)

BOUNDARY_HEAD = f"Content-Type: {form_headers()['Content-Type']}"
KINDS = ("Case7.mha", "Case7.nii", "Case7.nii.gz", "Case7.zip")


@pytest.fixture(scope="module")
def predicted(tmp_path_factory) -> tuple[dict[str, bytes], Path]:
    """Uploads of all kinds, and the folder of the masks that predict.py's function writes for the same files."""
    folder = tmp_path_factory.mktemp("kinds")
    uploads = {name: bright_file(folder, name) for name in KINDS}
    predict_volumes(bright(), MANAGER, folder, folder / "out", source(bright()).recipe, "x")
    return uploads, folder / "out"


@pytest.mark.parametrize("name", KINDS)
def test_masks_are_those_of_predict(client, predicted, name):
    uploads, masks = predicted
    status, headers, mask = client.post(name, uploads[name])
    assert status == 200, mask
    written = name.replace("Case7", "Case7_test")
    if name.endswith(".zip"):
        with zipfile.ZipFile(BytesIO(mask)) as archive:
            found = {member: archive.read(member) for member in archive.namelist()}
    else:
        found = {written: mask}
    assert sorted(found) == (["Case7_test.mhd", "Case7_test.zraw"] if name.endswith(".zip") else [written])
    assert found == {file: (masks / file).read_bytes() for file in found}
    assert f'filename="{written}"' in headers["content-disposition"]
    assert [entry.split(";")[0] for entry in headers["server-timing"].split(", ")] == [
        "read", "preprocess", "wait", "network", "postprocess", "write"]


def test_health_tells_when_the_network_is_stuck(monkeypatch):
    with serving(bright(), seconds=100) as client:
        for seconds, status, word in ((199.9, 200, "ok"), (200.1, 503, "stuck"), (0.0, 200, "ok")):
            monkeypatch.setattr(Segmenter, "busy_seconds", lambda _, seconds=seconds: seconds)
            answer = client.get("/health")
            told = json.loads(answer[2])
            assert (answer[0], told["status"], told["network_seconds"]) == (status, word, seconds)


def test_unknown_paths(client):
    assert client.get("/nothing")[0] == 404
    assert error_of(client.get("/predict")) == "GET /predict: Method Not Allowed"
    assert client.get("/static/../app.py")[0] == 404


def test_a_long_upload_is_refused_by_its_length(client):
    connection = client.begin(f"{BOUNDARY_HEAD}\r\nContent-Length: {5 << 20}")
    assert b" 413 " in connection.recv(15)
    connection.close()


def test_a_long_upload_is_refused_while_it_streams(client, volume):
    connection = client.begin(f"{BOUNDARY_HEAD}\r\nTransfer-Encoding: chunked")
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    head = b'--a-line-between\r\nContent-Disposition: form-data; name="file"; filename="a.mha"\r\n\r\n'
    connection.sendall(f"{len(head):x}\r\n".encode() + head + b"\r\n")
    for _ in range(24):  # half a MiB more than is allowed, all of which the service takes and throws away
        connection.sendall(chunk)
    with connection.makefile("rb") as stream:
        answer = stream.read()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"the upload has more than 1 MiB" in answer
    assert b"connection: close" in answer
    connection.close()
    assert client.post("a.nii.gz", volume)[0] == 200


def test_an_upload_that_stalls(client):
    connection = client.begin(f"{BOUNDARY_HEAD}\r\nContent-Length: 1000", b"--a-line")
    assert b" 408 " in connection.recv(15)
    connection.close()
    client.until_taken(0)


def test_several_at_once_with_the_network_one_at_a_time(volume):
    gate = Gate()
    with serving(gate, places=3, readers=2) as client:
        first = [in_background(lambda: client.post("a.nii.gz", volume)) for _ in range(3)]
        assert gate.waiting.acquire(timeout=30)
        client.until_taken(3)
        status, headers, body = client.post("a.nii.gz", volume)
        assert (status, json.loads(body)["error"]) == (503, "all 3 places are taken; try again in a while")
        assert 1 <= int(headers["retry-after"]) <= 120
        assert client.get("/")[0] == 200
        gate.open.set()
        masks = []
        for thread, results in first:
            thread.join(60)
            masks.append(results[0])
        assert [mask[0] for mask in masks] == [200, 200, 200]
        assert masks[0][2] == masks[1][2] == masks[2][2]
        assert gate.most == 1
        assert client.taken() == 0
        assert client.post("a.nii.gz", volume)[0] == 200


def test_clients_that_leave_free_their_places(volume):
    gate = Gate()
    body = form("a.nii.gz", volume)
    head = f"{BOUNDARY_HEAD}\r\nContent-Length: {len(body)}"
    with serving(gate, places=4, readers=2) as client:
        connections: list[socket.socket] = [client.begin(head, body)]
        assert gate.waiting.acquire(timeout=30)  # it is with the network
        connections += [client.begin(head, body), client.begin(head, body)]  # one waits for it, one to be read
        connections.append(client.begin(head, body[:50]))  # and one is being sent
        client.until_taken(4)
        for connection in connections[1:]:
            connection.close()
        client.until_taken(1)
        connections[0].close()
        time.sleep(0.2)
        assert client.taken() == 1  # what the network does it does to its end
        gate.open.set()
        client.until_taken(0)
        assert b"vnet_clients_gone_total 4.0" in client.get("/metrics")[2]
        assert client.post("a.nii.gz", volume)[0] == 200


def test_the_time_limit(volume):
    gate = Gate()
    with serving(gate, seconds=0.5) as client:
        status, headers, body = client.post("a.nii.gz", volume)
        assert (status, json.loads(body)["error"][:22]) == (504, "no mask within 0.5 s; ")
        assert "retry-after" in headers
        gate.open.set()
        client.until_taken(0)
    with serving(bright(), seconds=0.5) as client:
        connection = client.begin(f"{BOUNDARY_HEAD}\r\nContent-Length: 1000", b"--a-line")
        assert b" 408 " in connection.recv(15)
        connection.close()


def test_what_the_page_needs_is_made_in_a_place_and_within_the_time_limit(volume, monkeypatch):
    packing, go_on = threading.Event(), threading.Event()

    def pack(*_):
        packing.set()
        assert go_on.wait(60)
        return b"view"

    monkeypatch.setattr(view_module, "pack_view", pack)
    with serving(bright(), seconds=1.5) as client:
        thread, results = in_background(lambda: client.post("a.nii.gz", volume, "/view"))
        assert packing.wait(30)
        assert client.taken() == 1
        thread.join(60)
        assert results[0][0] == 504
        assert client.taken() == 1
        go_on.set()
        client.until_taken(0)


def test_a_network_that_fails_costs_one_request(volume, caplog):
    answers = iter([np.zeros_like, lambda image: 1 / 0, lambda image: np.full_like(image, np.nan),
                    lambda image: image > 1.0])
    with serving(FunctionPredictor(lambda image: next(answers)(image))) as client:
        status, _, body = client.post("Secret.nii.gz", volume)
        number = json.loads(body)["error"].split()[-1]
        assert status == 500
        assert f"error {number}" in caplog.text
        answer = client.post("Secret.nii.gz", volume)
        assert (answer[0], "failed; its log says how" in error_of(answer)) == (500, True)
        assert client.post("a.nii.gz", volume)[0] == 200
        assert client.taken() == 0


def test_metrics_count(volume):
    with serving(bright()) as client:
        client.post("a.nii.gz", volume)
        client.post("a.txt", b"x")
        status, headers, text = client.get("/metrics")
        assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        lines = text.decode().splitlines()
        for line in ('vnet_requests_total{path="/predict",status="200"} 1.0',
                     'vnet_requests_total{path="/predict",status="415"} 1.0',
                     'vnet_stage_seconds_count{stage="network"} 1.0', "vnet_places 8.0", "vnet_places_taken 0.0"):
            assert line in lines
        assert json.loads(client.get("/health")[2]) == {
            "status": "ok", "model": "a model", "classes": 2, "places": 8, "places_taken": 0,
            "network_seconds": 0.0,
            "limits": {"upload_bytes": 268435456, "voxels": 67108864, "seconds": 120.0}}


def test_the_page_needs_nothing_from_elsewhere(client):
    status, headers, page = client.get("/")
    assert (status, b"<title>V-Net segmentation</title>" in page) == (200, True)
    assert "default-src 'none'" in headers["content-security-policy"]
    for path in PAGE.iterdir():
        assert client.get(f"/static/{path.name}")[0] == 200
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "").replace("http://HOST", "")
        assert "http://" not in text
        assert "https://" not in text
