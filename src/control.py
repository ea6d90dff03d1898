"""The connections between rank 0 and the other ranks of a run, open from before MindSpore joins them until they end.

Over them the ranks tell each other Python values, however late one of them is, and notice at once when one is gone.
MindSpore's own collectives on CPU give up on a late rank, and take long to notice a dead one, which they cannot name.
Nothing here needs MindSpore.
"""

import contextlib
import json
import logging
import os
import pickle
import queue
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any, TypeVar

from src.errors import EXIT_USER_ERROR, UserError
from src.ranks import JOIN_SECONDS, cannot_listen

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOST_RANK = re.compile(r"rank \d+ at \S+ is gone(?: \([^)]*\))?")  # what is said of one; launchers look for it

_HEAD = struct.Struct("<cq")  # kind and length of a message
_HELLO, _WELCOME, _VALUE, _GONE, _BYE = b"h", b"w", b"v", b"g", b"b"
_LONGEST_HELLO = 1 << 20  # bytes; whoever announces more is no rank
# A machine that is switched off or cut off says nothing; the kernel asks it and gives up after half a minute.
_SILENCE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
NOTICE_SECONDS = 0.5  # for this rank to end by itself, where all have met the same problem
GRACE_SECONDS = 5.0  # for the launcher, to see for itself which rank of its machine ended first

_watching = threading.Event()  # whether this process ends when a rank is gone


class Control:
    """One rank's connections: of rank 0 to all others, of the others to rank 0. A thread each takes what comes in.

    When a rank is gone without `leave`, this process names it in one line and ends with code 2, whatever it is doing:
    MindSpore may wait for that rank in a call that nothing else can interrupt.

    Args:
        rank: this one.
        peers: a connected socket by rank.
    """

    def __init__(self, rank: int, peers: Mapping[int, socket.socket]):
        self.rank = rank
        self._peers = dict(peers)
        self._values: dict[int, queue.SimpleQueue[bytes | None]] = {peer: queue.SimpleQueue() for peer in peers}
        self._sending = {peer: threading.Lock() for peer in peers}
        self._left = False
        self._losing = threading.Lock()  # taken once
        _watching.set()
        for peer, connection in self._peers.items():
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for name, value in _SILENCE.items():
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            threading.Thread(target=self._watch, args=(peer, connection), name=f"rank-{peer}", daemon=True).start()

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in rank order and exactly as they were; whatever can be pickled.

        All ranks have to call this at the same point. It waits for the others without limit.

        Raises:
            UserError: another rank has left.
        """
        own = pickle.dumps(value)
        if self.rank:
            self._send(0, _VALUE, own)
            values = pickle.loads(self._take(0))
        else:
            values = [own, *(self._take(peer) for peer in sorted(self._peers))]
            together = pickle.dumps(values)
            for peer in self._peers:
                self._send(peer, _VALUE, together)
        return [pickle.loads(part) for part in values]

    def leave(self, failed: bool = False) -> None:
        """Tell the others that this rank is done; or with `failed` just go, so that they see that it is gone."""
        self._left = True
        for peer, connection in self._peers.items():
            with contextlib.suppress(OSError):
                if not failed:
                    self._send(peer, _BYE, b"")
                connection.shutdown(socket.SHUT_RDWR if failed else socket.SHUT_WR)

    def _send(self, peer: int, kind: bytes, payload: bytes) -> None:
        with self._sending[peer]:
            try:
                _send(self._peers[peer], kind, payload)
            except OSError as error:
                if kind == _VALUE:
                    settle()
                    raise UserError(_ended(peer)) from error
                raise

    def _take(self, peer: int) -> bytes:
        value = self._values[peer].get()
        if value is None:
            self._values[peer].put(None)  # for whoever asks again
            raise UserError(_ended(peer))
        return value

    def _watch(self, peer: int, connection: socket.socket) -> None:
        host = own = "?"
        try:
            host, own = connection.getpeername()[0], connection.getsockname()[0]
            while True:
                kind, payload = _receive(connection)
                if kind == _VALUE:
                    self._values[peer].put(payload)
                elif kind == _GONE:
                    gone = json.loads(payload)
                    return self._lose(gone["rank"], gone["host"], gone["why"], own)
                else:  # it left; its connection will end
                    return self._values[peer].put(None)
        except (OSError, MemoryError) as error:
            self._lose(peer, host, getattr(error, "strerror", None) or str(error), own)

    def _lose(self, rank: int, host: str, why: str, own_host: str) -> None:
        """Say which rank is gone, here and on the other ranks, and end this process."""
        if not self._losing.acquire(blocking=False):
            return
        time.sleep(NOTICE_SECONDS)
        if self._left:
            return
        logger.error("rank %d at %s is gone%s, so rank %d ends too; look at that rank's log, and continue with "
                     "--resume RUN_DIR", rank, host, f" ({why})" if why else "", self.rank)
        word = json.dumps({"rank": rank, "host": host, "why": why}).encode()
        for peer in self._peers:
            if peer != rank and self._sending[peer].acquire(timeout=1):  # not while half of a message is on its way
                with contextlib.suppress(OSError):
                    _send(self._peers[peer], _GONE, word)
                self._sending[peer].release()
        _end_process(GRACE_SECONDS if host == own_host else 0.0)
        for values in self._values.values():  # only where the process goes on, as tests do
            values.put(None)


def meet(host: str, port: int, rank: int, world_size: int, seconds: float = JOIN_SECONDS,
         settings: Mapping[str, Any] | None = None) -> Control:
    """Return the connections when all ranks have called this; rank 0 listens at `host`:`port`, the others come to it.

    MindSpore's own joining waits up to ten minutes in C++, where no thread or signal handler of Python can end it.

    Args:
        settings: what has to be the same on all ranks, by name.

    Raises:
        UserError: rank 0 cannot listen or cannot be reached, a rank did not come within `seconds`, or the ranks differ
            in what they know of each other. All ranks that came raise the same.
    """
    deadline = time.monotonic() + seconds
    # As the others see it after its way through JSON.
    settings = json.loads(json.dumps(dict(settings or {}), default=str))
    peers: dict[int, socket.socket] = {}
    problem = (_welcome(host, port, world_size, deadline, seconds, settings, peers) if rank == 0 else
               _report(host, port, rank, world_size, deadline, seconds, settings, peers))
    if problem:
        for connection in peers.values():
            connection.close()
        raise UserError(problem)
    return Control(rank, peers)


def settle() -> None:
    """Wait a little where something failed as it does when a rank is gone: that one is to be named, not this one.

    The thread that watches, or the launcher, ends this process meanwhile.
    """
    if _watching.is_set():
        time.sleep(GRACE_SECONDS + 3)


def _welcome(host: str, port: int, world_size: int, deadline: float, seconds: float, settings: Mapping[str, Any],
             peers: dict[int, socket.socket]) -> str:
    """Wait for ranks 1 to `world_size` - 1, tell each what is wrong, nothing by default, and return that."""
    problem, strange = "", []
    try:
        server = socket.create_server((host, port), backlog=world_size)
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    with server:
        while not problem and len(peers) < world_size - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection, _ = server.accept()
                connection.settimeout(5)
                hello = json.loads(_receive(connection, _LONGEST_HELLO)[1])
                rank, size, theirs = int(hello["rank"]), int(hello["world_size"]), dict(hello["settings"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # the time is up, or something else knocked
            problem = _disagreement(rank, size, theirs, world_size, settings, peers)
            if problem:
                strange.append(connection)
            else:
                peers[rank] = connection
    missing = [str(rank) for rank in range(1, world_size) if rank not in peers]
    if missing and not problem:
        problem = (f"rank{'s' * (len(missing) > 1)} {', '.join(missing)} of {world_size} did not come within "
                   f"{seconds:.0f} s; look at their logs, and whether all nodes were started and reach {host}:{port} "
                   "(MS_TOPO_TIMEOUT=SECONDS waits longer)")
    for connection in [*peers.values(), *strange]:
        with contextlib.suppress(OSError):  # it has ended; its launcher says so
            _send(connection, _WELCOME, problem.encode())
    for connection in strange:
        connection.close()
    return problem


def _disagreement(rank: int, size: int, theirs: Mapping[str, Any], world_size: int, settings: Mapping[str, Any],
                  peers: Mapping[int, socket.socket]) -> str:
    """Return what is wrong with a rank that came, seen from rank 0; empty for nothing."""
    if size != world_size:
        return (f"rank {rank} was started as one of {size} ranks, rank 0 as one of {world_size}; NODE_NUM and "
                "DEVICE_NUM have to be the same on all nodes")
    if not 0 < rank < world_size:
        return (f"a rank came as number {rank}, expected 1 to {world_size - 1}; each node needs a NODE_RANK from 0 to "
                "NODE_NUM - 1, and node 0 is the one of MASTER_ADDR")
    if rank in peers:
        return f"rank {rank} came twice; each node needs a NODE_RANK of its own, from 0 to NODE_NUM - 1"
    other = [f"{name}: {str(theirs.get(name))[:60]}, not {str(settings.get(name))[:60]}"
             for name in sorted(theirs.keys() | settings.keys()) if theirs.get(name) != settings.get(name)]
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        return (f"rank {rank} was started with other settings ({'; '.join(other[:3])}{more}); start all nodes from "
                "the same code, with the same options, splits and checkpoint")
    return ""


def _report(host: str, port: int, rank: int, world_size: int, deadline: float, seconds: float,
            settings: Mapping[str, Any], peers: dict[int, socket.socket]) -> str:
    """Go to rank 0, wait for its word, and return it."""
    while True:
        try:
            connection = peers[0] = socket.create_connection((host, port), timeout=5)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                return (f"rank {rank} did not reach rank 0 at {host}:{port} within {seconds:.0f} s ({error}); look at "
                        "its log, at MASTER_ADDR and MASTER_PORT, and at the firewall between the nodes "
                        "(MS_TOPO_TIMEOUT=SECONDS waits longer)")
            time.sleep(0.1)
    try:
        hello = {"rank": rank, "world_size": world_size, "settings": settings}
        _send(connection, _HELLO, json.dumps(hello).encode())
        connection.settimeout(max(0.0, deadline - time.monotonic()) + 10)
        return _receive(connection, _LONGEST_HELLO)[1].decode()
    except (OSError, ValueError):
        return f"rank {rank} lost rank 0 while they waited for the others; look at the log of rank 0"


def _send(connection: socket.socket, kind: bytes, payload: bytes) -> None:
    connection.sendall(_HEAD.pack(kind, len(payload)) + payload)


def _receive(connection: socket.socket, longest: int | None = None) -> tuple[bytes, bytes]:
    """Return kind and content of the next message.

    Raises:
        OSError: the connection has ended.
        ValueError: the message is longer than `longest`.
    """
    kind, length = _HEAD.unpack(_read(connection, _HEAD.size))
    if length < 0 or (longest is not None and length > longest):
        raise ValueError(length)
    return kind, _read(connection, length)


def _read(connection: socket.socket, length: int) -> bytes:
    content = bytearray(length)
    view = memoryview(content)
    while view:
        count = connection.recv_into(view)
        if count == 0:
            raise ConnectionError
        view = view[count:]
    return bytes(content)


def _ended(peer: int) -> str:
    return f"rank {peer} has ended while this rank waits for it; look at its log, and continue with --resume RUN_DIR"


def _end_process(seconds: float) -> None:
    """End this process after so many seconds, from whichever thread: nothing of MindSpore's is waited for."""
    time.sleep(seconds)
    logging.shutdown()
    os._exit(EXIT_USER_ERROR)
