"""A request's body, bounded while it streams in, and a refusal that the client gets to read."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from src.serve.limits import MIB, Limits, Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# For the browser: the page runs what we serve, loads nothing from elsewhere, and is framed by nobody.
_HEADERS = [(name.encode(), value.encode()) for name, value in {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store",
}.items()]


class BodyGuard:
    """ASGI middleware: refuses a body that is too long (413), with or without Content-Length, or that stalls (408).

    The refusal is raised where the application reads the body. The answer to a request whose body is not read to its
    end is sent first; then what still comes is thrown away for a while before the connection closes, since closing it
    at once would take the answer from a client that is still sending.

    Args:
        app: the application.
        limits: `upload_bytes` and `stall_seconds` count.
    """

    def __init__(self, app: App, limits: Limits):
        self.app = app
        self.limits = limits

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(scope, receive, send, self.limits)
        await self.app(scope, body.receive, body.send)


class _Body:
    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, limits: Limits):
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        self.announced = int(length) if length.isdigit() else 0
        self.ended = not self.announced and b"transfer-encoding" not in headers
        self.found = 0
        self.limits = limits
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        if self.ended:
            return await self._receive()
        if max(self.announced, self.found) > self.limits.upload_bytes:
            raise self._too_long()
        try:
            async with asyncio.timeout(self.limits.stall_seconds):
                message = await self._next()
        except TimeoutError:
            raise Refusal(408, f"no byte of the upload came for {self.limits.stall_seconds:g} s; check the "
                               "connection, and send it again") from None
        if self.found > self.limits.upload_bytes:
            raise self._too_long()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], *_HEADERS, *([] if self.ended else [(b"connection", b"close")])]
            await self._send({**message, "headers": headers})
            return
        if not self.ended and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._discard()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.found += len(message.get("body", b""))
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def _discard(self) -> None:
        most = self.found + self.limits.upload_bytes
        try:
            async with asyncio.timeout(self.limits.stall_seconds):
                while not self.ended and self.found < most:
                    await self._next()
        except TimeoutError:
            pass

    def _too_long(self) -> Refusal:
        return Refusal(413, f"the upload has more than {self.limits.upload_bytes / MIB:g} MiB; send the volume "
                            "compressed (.nii.gz, or .mha with compression), or crop it")
