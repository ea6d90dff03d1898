"""How the two ranks of a pipeline send volumes to each other, while both go on computing.

On CPU the ranks of one machine talk through a Unix socket of their own, with a thread each way. Elsewhere MindSpore's
point-to-point operators do it (not run here on Ascend or GPU).
"""

import contextlib
import json
import queue
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from mindspore import Tensor

from src.backend import Backend
from src.collectives import gather
from src.errors import UserError

_LENGTH = struct.Struct("<q")
_AHEAD = 4  # messages that are taken from the socket before they are asked for
_BUFFER = 1 << 22  # bytes in the socket; small buffers make the two threads take turns


class Channel(Protocol):
    """A message is a list of tensors; messages arrive in the order sent."""

    bytes_sent: int

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Send, without waiting for the other rank to take it."""

    def receive(self) -> list[Tensor]:
        """Wait for the next message."""

    def close(self) -> None:
        """End the connection after everything was sent."""


class LocalChannel:
    """A connected socket between two processes of one machine, with a thread that sends and one that receives.

    Args:
        connection: a stream socket whose other end the other rank has.

    Raises (`send` and `receive`):
        UserError: the other rank ended.
    """

    def __init__(self, connection: socket.socket):
        self.bytes_sent = 0
        self._connection = connection
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connection.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self._outgoing: queue.Queue[list[tuple[Tensor, np.ndarray]] | None] = queue.Queue()
        self._incoming: queue.Queue[list[Tensor] | None] = queue.Queue(_AHEAD)
        self._broken = False
        self._threads = [threading.Thread(target=target, name=f"pipeline-{name}", daemon=True)
                         for name, target in (("send", self._send_all), ("receive", self._receive_all))]
        for thread in self._threads:
            thread.start()

    def send(self, tensors: Sequence[Tensor]) -> None:
        if self._broken:
            raise _other_rank_ended()
        # The tensor goes along: the array is a view of its memory.
        arrays = [(tensor, tensor.asnumpy()) for tensor in tensors]
        self._outgoing.put([(tensor, np.ascontiguousarray(array).reshape(array.shape)) for tensor, array in arrays])

    def receive(self) -> list[Tensor]:
        message = self._incoming.get()
        if message is None:
            self._broken = True
            self._incoming.put(None)  # for whoever asks again
            raise _other_rank_ended()
        return message

    def close(self) -> None:
        self._outgoing.put(None)
        self._threads[0].join(timeout=10)
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _send_all(self) -> None:
        try:
            while (message := self._outgoing.get()) is not None:
                head = json.dumps([[array.dtype.str, array.shape] for _, array in message]).encode()
                self._connection.sendall(_LENGTH.pack(len(head)) + head)
                for _, array in message:
                    self._connection.sendall(array.reshape(-1).view(np.uint8).data)
                    self.bytes_sent += array.nbytes
        except OSError:
            self._broken = True

    def _receive_all(self) -> None:
        try:
            while True:
                length = _LENGTH.unpack(self._take(np.empty(_LENGTH.size, np.uint8)).tobytes())[0]
                head = json.loads(self._take(np.empty(length, np.uint8)).tobytes())
                arrays = [np.empty(shape, kind) for kind, shape in head]
                for array in arrays:
                    self._take(array.reshape(-1).view(np.uint8))
                self._incoming.put([Tensor.from_numpy(array) for array in arrays])
        except OSError:
            self._incoming.put(None)

    def _take(self, target: np.ndarray) -> np.ndarray:
        """Fill the uint8 array `target` from the socket."""
        view = memoryview(target.data)
        while len(view):
            count = self._connection.recv_into(view)
            if count == 0:
                raise ConnectionError
            view = view[count:]
        return target


class MintChannel:
    """MindSpore's point-to-point operators: each message is announced by its shapes. fp32 only; not run here.

    Args:
        peer: the other rank.
    """

    _HEAD = 64  # numbers: count of tensors, then for each its rank and shape

    def __init__(self, peer: int):
        import mindspore.mint.distributed as distributed
        from mindspore import communication

        self.bytes_sent = 0
        self._peer = peer
        self._distributed: Any = distributed
        # Without a group of this name mint's receive may return wrong data, without an error.
        communication.create_group("hccl_world_group", list(range(communication.get_group_size())))
        self._pending: list[Any] = []

    def send(self, tensors: Sequence[Tensor]) -> None:
        self._pending = [(handle, kept) for handle, kept in self._pending if not _is_done(handle)]
        head = [len(tensors)]
        for tensor in tensors:
            head += [tensor.ndim, *tensor.shape]
        for tensor in (Tensor(np.array(head + [0] * (self._HEAD - len(head)), np.float32)), *tensors):
            handle = self._distributed.isend(tensor, self._peer)
            self._pending.append((handle, tensor))
            self.bytes_sent += tensor.nbytes

    def receive(self) -> list[Tensor]:
        head = [int(number) for number in self._take((self._HEAD,)).asnumpy()]
        tensors = []
        place = 1
        for _ in range(head[0]):
            end = place + 1 + head[place]
            tensors.append(self._take(tuple(head[place + 1:end])))
            place = end
        return tensors

    def close(self) -> None:
        for handle, _ in self._pending:
            if handle is not None:
                handle.wait()

    def _take(self, shape: tuple[int, ...]) -> Tensor:
        target = Tensor(np.zeros(shape, np.float32))
        self._distributed.recv(target, self._peer)
        return target


def open_channel(backend: Backend) -> Channel:
    """Connect this rank of a pipeline with the other one; both have to call it.

    Raises:
        UserError: on CPU the other rank is not on this machine.
    """
    if backend.device_target != "CPU":
        return MintChannel(1 - backend.rank)
    if backend.rank == 0:
        folder = Path(tempfile.mkdtemp(prefix="vnet-pipeline-"))  # for this user alone
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "socket"))
            listener.listen(1)
            gather(backend, str(folder / "socket"))
            listener.settimeout(60)
            try:
                connection, _ = listener.accept()
            except TimeoutError as error:
                raise UserError("pipeline: the second rank did not connect within 60 s; on CPU both ranks have to run "
                                "on one machine") from error
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        connection.settimeout(None)
        return LocalChannel(connection)
    return connect(Path(gather(backend, "")[0]))


def connect(path: Path) -> LocalChannel:
    """Connect to the socket at `path`.

    Raises:
        UserError: nothing is there.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError as error:
        raise UserError(f"pipeline: the first rank's socket {path} cannot be reached ({error.strerror}); on CPU both "
                        "ranks have to run on one machine") from error
    return LocalChannel(connection)


def _is_done(handle: Any) -> bool:
    return handle is None or bool(handle.query()) if hasattr(handle, "query") else False


def _other_rank_ended() -> UserError:
    return UserError("pipeline: the other rank ended; its log says why. Continue with --resume RUN_DIR")
