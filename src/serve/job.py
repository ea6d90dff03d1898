"""One volume on its way through the threads: cancelled from outside, and timed."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import TypeVar

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Job:
    """What the thread that works on a volume and the one that answers the client share.

    Attributes:
        seconds: by stage, in the order in which they ended.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._gone = threading.Event()
        self._last = time.perf_counter()
        self._waiting: Future | None = None

    def start(self) -> None:
        """Begin the first stage now."""
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """End a stage, and begin the next."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
        self.check()

    def check(self) -> None:
        """Raise `ClientGone` when the job was cancelled."""
        if self._gone.is_set():
            raise ClientGone

    def cancel(self) -> None:
        """End the job at its next `check`, or at once while it waits for a turn."""
        self._gone.set()
        if self._waiting is not None:
            self._waiting.cancel()

    def turn(self, executor: Executor, function: Callable[..., T], *arguments: object) -> T:
        """Wait for a turn of the executor, and return what the function returns there.

        Raises:
            ClientGone: the job was cancelled before its turn.
        """
        self._waiting = executor.submit(function, *arguments)
        if self._gone.is_set():  # since the last check, when there was nothing to cancel
            self._waiting.cancel()
        try:
            return self._waiting.result()
        except CancelledError:
            raise ClientGone from None
