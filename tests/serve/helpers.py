"""A service in this process whose network is a function, and a client that can misbehave."""

import contextlib
import http.client
import json
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

for _name in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(_name, reason=f"serve.py needs {_name}: pip install -r requirements-serve.txt")

from src.data.volume_files import write_volume
from src.inference.postprocess import Postprocess
from src.inference.source import Source
from src.serve.app import PAGE, create_app
from src.serve.limits import Limits
from src.serve.segmenter import Segmenter
from src.serve.server import bind, make_server
from tests.inference.helpers import GRID, MANAGER, bright_volume

__all__ = ["PAGE", "Client", "Gate", "bright_file", "error_of", "form", "form_headers", "header_of",
           "in_background", "serving", "source", "zipped"]

BOUNDARY = b"a-line-between"


def source(predictor, manager=MANAGER, task: str = "promise12") -> Source:
    return Source(predictor, manager, {"task": task}, "a model", Postprocess())


class Gate:
    """A predictor that answers once it may: foreground where the block is bright."""

    path: Path | None = None

    def __init__(self):
        self.open = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.inside = self.most = 0

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        self.inside += 1
        self.most = max(self.most, self.inside)
        if image.any():  # the first run, of zeros, is the service's own
            self.waiting.release()
            assert self.open.wait(60)
        self.inside -= 1
        return (image > 1.0).astype(np.float32)


class Client:
    """Asks a service on this machine."""

    def __init__(self, port: int):
        self.port = port

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        return self._ask("GET", path, None, {})

    def post(self, name: str, content: bytes, path: str = "/predict") -> tuple[int, dict[str, str], bytes]:
        return self._ask("POST", path, form(name, content), form_headers())

    def post_raw(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        return self._ask("POST", "/predict", body, headers)

    def begin(self, head: str, body: bytes = b"") -> socket.socket:
        """Send the head of a POST to /predict, and `body`; return the connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
        return connection

    def taken(self) -> int:
        return json.loads(self.get("/health")[2])["places_taken"]

    def until_taken(self, count: int) -> None:
        for _ in range(600):
            if self.taken() == count:
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.taken()} places are taken, expected {count}")

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


@contextlib.contextmanager
def serving(predictor, manager=MANAGER, **limits) -> Iterator[Client]:
    """Serve a predictor on a free port, with `limits` in place of the usual ones."""
    allowed = Limits(**limits)
    segmenter = Segmenter(lambda: source(predictor, manager), allowed)
    place = bind("127.0.0.1", 0)
    server = make_server(create_app(segmenter, allowed), allowed)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Client(place.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)
        place.close()
    assert not thread.is_alive()


def form(name: str, content: bytes) -> bytes:
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    return b"--" + BOUNDARY + b"\r\n" + head + content + b"\r\n--" + BOUNDARY + b"--\r\n"


def form_headers() -> dict[str, str]:
    return {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}


def error_of(answer: tuple[int, dict[str, str], bytes]) -> str:
    return json.loads(answer[2])["error"]


def zipped(members: dict[str, bytes], **options) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def bright_file(folder: Path, name: str) -> bytes:
    """Return a file of a bright ellipsoid, of the kind that its name says; a `.zip` has a `.mhd` and a `.raw`."""
    image, _ = bright_volume(GRID, (8, 9, 10))
    if not name.endswith(".zip"):
        write_volume(folder / name, image, GRID)
        return (folder / name).read_bytes()
    header = folder / f"{name.removesuffix('.zip')}.mhd"
    write_volume(header, image, GRID, compress=False)
    return zipped({path.name: path.read_bytes() for path in (header, header.with_suffix(".raw"))},
                  compression=zipfile.ZIP_DEFLATED)


def in_background(function: Callable[[], object]) -> tuple[threading.Thread, list]:
    """Run a function in a thread; its result is in the list once the thread has ended."""
    results: list = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    return thread, results


def header_of(content: bytes, old: str, new: str) -> bytes:
    """Return a MetaImage whose header says `new` in place of `old`."""
    assert old.encode() in content
    return content.replace(old.encode(), new.encode(), 1)
