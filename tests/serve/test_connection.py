"""Connections that do not say what they want, which would keep everybody else out."""

import socket
import time

import pytest

from src.errors import UserError
from src.serve import server as server_module
from src.serve.server import bind
from tests.inference.helpers import bright
from tests.serve.helpers import Client, Gate, bright_file, in_background, serving

WHOLE = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def connected(client: Client, start: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=30)
    connection.sendall(start)
    return connection


def read_answer(connection: socket.socket) -> bytes:
    """Read the answer to `WHOLE`, whose body ends with two braces."""
    found = b""
    while not found.endswith(b"}}"):
        piece = connection.recv(1 << 16)
        assert piece, found
        found += piece
    return found


@pytest.fixture(scope="module")
def client():
    with serving(bright(), stall_seconds=2) as client:
        yield client


def test_as_many_silent_connections_as_there_may_be(monkeypatch):
    monkeypatch.setattr(server_module, "_CONNECTIONS", 6)
    with serving(bright(), stall_seconds=2) as client:
        connections = [connected(client, start) for start in (b"", b"GET /hea", b"GET / HTTP/1.1\r\nHost: x\r\n") * 3]
        assert [connection.recv(100) for connection in connections] == [b""] * 9  # closed, not timed out
        assert client.get("/health")[0] == 200
        for connection in connections:
            connection.close()


def test_single_bytes_do_not_prolong_it(client):
    with connected(client, b"GET / HTTP/1.1\r\nHost: x\r\nX: ") as connection:
        connection.settimeout(0.1)
        for _ in range(300):
            try:
                connection.sendall(b"x")
                if not connection.recv(1):
                    return
            except TimeoutError:
                continue
            except ConnectionError:  # a byte came after the end
                return
    pytest.fail("it is still open")


def test_a_header_in_part_after_an_answer(client):
    with connected(client, WHOLE) as connection:
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(WHOLE[:9])
        assert connection.recv(1) == b""


def test_requests_on_one_connection(client):
    with connected(client, WHOLE[:9]) as connection:
        connection.sendall(WHOLE[9:])
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(WHOLE)
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(WHOLE + WHOLE)
        found = read_answer(connection)
        while found.count(b"HTTP/1.1 200 ") < 2:
            found += read_answer(connection)


def test_an_answer_may_take_longer(tmp_path):
    gate = Gate()
    volume = bright_file(tmp_path, "a.nii.gz")
    with serving(gate, stall_seconds=2) as client:
        thread, results = in_background(lambda: client.post("a.nii.gz", volume))
        assert gate.waiting.acquire(timeout=60)
        time.sleep(3)
        gate.open.set()
        thread.join(60)
        assert results[0][0] == 200


@pytest.mark.parametrize("port", [-5, 65536, 73536, 2**40])
def test_a_port_that_does_not_exist_is_not_another_one(port):
    with pytest.raises(UserError, match=rf"--port {port}: expected 0, for any free one, to 65535"):
        bind("127.0.0.1", port)
