"""A connection that has a while to say what it wants."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def make_protocol(stall_seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with a limit on how long a connection may take over the header of a request.

    uvicorn itself closes a connection that is idle after an answer, not one that has sent nothing yet, or a header in
    part; as many of these as there may be connections would keep everybody else out.

    Args:
        stall_seconds: from the connection, or from the end of the last answer, to the end of a header.
    """

    class Protocol(H11Protocol):
        _header_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def _watch(self) -> None:
            """Let the time run while a header is to come, from where it began: single bytes do not prolong it."""
            if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
                self._stop()
            elif self._header_timer is None:
                # As after an answer: closed without a word, once what was answered before has left.
                self._header_timer = self.loop.call_later(stall_seconds, self.timeout_keep_alive_handler)

        def _stop(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

    return Protocol
