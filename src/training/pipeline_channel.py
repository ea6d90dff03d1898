"""How the two ranks of a pipeline send volumes to each other, while both go on computing.

On CPU the ranks of one machine talk through a Unix socket of their own, with a thread each way. On Ascend MindSpore's
point-to-point operators do it (not run here); on GPU there are none.
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
from src.control import settle
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

    def wait(self) -> None:
        """Return when all that was sent has gone: what is kept for it is free then."""

    def close(self) -> None:
        """End the connection after everything was sent."""


class LocalChannel:
    """A connected socket between two processes of one machine, with a thread that sends and one that receives.

    Args:
        connection: a stream socket whose other end the other rank has.

    Raises (`send` and `receive`):
        UserError: the other rank ended. What else went wrong in a thread, such as MemoryError, is raised as it is.
    """

    def __init__(self, connection: socket.socket):
        self.bytes_sent = 0
        self._connection = connection
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connection.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self._outgoing: queue.Queue[list[tuple[Tensor, np.ndarray]] | None] = queue.Queue()
        self._incoming: queue.Queue[list[Tensor] | None] = queue.Queue(_AHEAD)
        self._problem: BaseException | None = None  # of either thread
        self._threads = [threading.Thread(target=target, name=f"pipeline-{name}", daemon=True)
                         for name, target in (("send", self._send_all), ("receive", self._receive_all))]
        for thread in self._threads:
            thread.start()

    def send(self, tensors: Sequence[Tensor]) -> None:
        if self._problem is not None:
            raise self._told()
        # The tensor goes along: the array is a view of its memory.
        arrays = [(tensor, tensor.asnumpy()) for tensor in tensors]
        self._outgoing.put([(tensor, np.ascontiguousarray(array).reshape(array.shape)) for tensor, array in arrays])

    def receive(self) -> list[Tensor]:
        message = self._incoming.get()
        if message is None:
            self._incoming.put(None)  # for whoever asks again
            raise self._told()
        return message

    def wait(self) -> None:
        """The thread that sends keeps what it has yet to send, and no more."""

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
        except BaseException as error:
            self._end(error)

    def _receive_all(self) -> None:
        try:
            while True:
                length = _LENGTH.unpack(self._take(np.empty(_LENGTH.size, np.uint8)).tobytes())[0]
                head = json.loads(self._take(np.empty(length, np.uint8)).tobytes())
                arrays = [np.empty(shape, kind) for kind, shape in head]
                for array in arrays:
                    self._take(array.reshape(-1).view(np.uint8))
                self._incoming.put([Tensor.from_numpy(array) for array in arrays])
        except BaseException as error:
            self._end(error)
            self._incoming.put(None)

    def _end(self, problem: BaseException) -> None:
        """Keep what went wrong, and let the other rank and the other thread know that nothing more will come."""
        self._problem = self._problem or problem
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _told(self) -> BaseException:
        if self._problem is not None and not isinstance(self._problem, OSError):
            return self._problem
        settle()
        return UserError("pipeline: the other rank ended; its log says why. Continue with --resume RUN_DIR")

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
    """MindSpore's point-to-point operators, on Ascend: a message is announced by its shapes. fp32 only; not run here.

    They are documented for PyNative mode, which calls between compiled graphs are in. Each direction has a
    communication group of its own: in one group the device takes sends and receives one after the other, so that two
    ranks which both send first would wait for each other.

    Args:
        rank: this one; the other is 1 - `rank`.
    """

    def __init__(self, rank: int):
        import mindspore.mint.distributed as distributed
        from mindspore import communication

        self.bytes_sent = 0
        self._peer = 1 - rank
        self._distributed: Any = distributed
        groups = [f"pipeline_from_{sender}" for sender in range(2)]
        for group in groups:  # on both ranks in the same order
            communication.create_group(group, [0, 1])
        self._outgoing, self._incoming = groups[rank], groups[1 - rank]
        self._pending: list[tuple[Any, Tensor]] = []

    def send(self, tensors: Sequence[Tensor]) -> None:
        head = [float(len(tensors))]
        for tensor in tensors:
            head += [tensor.ndim, *tensor.shape]
        for tensor in (Tensor(np.array([len(head)], np.float32)), Tensor(np.array(head, np.float32)), *tensors):
            self._pending.append((self._distributed.isend(tensor, self._peer, self._outgoing), tensor))
            self.bytes_sent += tensor.nbytes

    def receive(self) -> list[Tensor]:
        length = int(self._take((1,)).asnumpy()[0])
        head = [int(number) for number in self._take((length,)).asnumpy()]
        tensors = []
        place = 1
        for _ in range(head[0]):
            end = place + 1 + head[place]
            tensors.append(self._take(tuple(head[place + 1:end])))
            place = end
        return tensors

    def wait(self) -> None:
        for handle, _ in self._pending:
            if handle is not None:
                handle.wait()
        self._pending.clear()

    def close(self) -> None:
        self.wait()

    def _take(self, shape: tuple[int, ...]) -> Tensor:
        target = Tensor(np.zeros(shape, np.float32))
        self._distributed.recv(target, self._peer, self._incoming)
        return target


def open_channel(backend: Backend) -> Channel:
    """Connect this rank of a pipeline with the other one; both have to call it.

    Raises:
        UserError: on CPU the other rank is not on this machine.
    """
    if backend.device_target != "CPU":
        return MintChannel(backend.rank)
    if backend.rank == 0:
        # For this user alone; and not where TMPDIR says, since the path of a socket has 107 characters at most.
        folder = Path(tempfile.mkdtemp(prefix="vnet-pipeline-", dir="/tmp"))
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(str(folder / "socket"))
                listener.listen(1)
                gather(backend, str(folder / "socket"))
                listener.settimeout(60)
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
