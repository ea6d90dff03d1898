"""The service on a port, from its start to its end by SIGTERM or Ctrl-C."""

import logging
import signal
import socket

import uvicorn
from fastapi import FastAPI

from src.errors import UserError
from src.serve.connection import make_protocol
from src.serve.limits import Limits

logger = logging.getLogger(__name__)

_CONNECTIONS = 256  # open at a time; most of them are browsers that may ask again
_IDLE_SECONDS = 5
_HIGHEST_PORT = 65535


def bind(host: str, port: int) -> socket.socket:
    """Take a port, which answers only once `run` does; 0 for any free one.

    Raises:
        UserError: it cannot be had.
    """
    if not 0 <= port <= _HIGHEST_PORT:  # getaddrinfo takes what is left of it after so many bits
        raise UserError(f"--port {port}: expected 0, for any free one, to {_HIGHEST_PORT}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                                         flags=socket.AI_PASSIVE)[0]
        taken = socket.socket(family, kind)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another port or "
                        "address") from error
    return taken


def make_server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """Return a server that `run(sockets=…)` starts and `should_exit` ends."""
    return _Server(uvicorn.Config(
        app, http=make_protocol(limits.stall_seconds), ws="none", log_config=None, access_log=False,
        server_header=False, limit_concurrency=_CONNECTIONS, timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=round(limits.seconds + limits.stall_seconds) + 5))


def run(app: FastAPI, place: socket.socket, limits: Limits) -> None:
    """Serve until SIGTERM or Ctrl-C: then requests that have a place are answered, and new ones turned away."""
    server = make_server(app, limits)
    # uvicorn takes these signals while it serves. Before, they end it all the same; afterwards it raises them once
    # more, for whoever had them before, which would end an orderly end with an error.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    server.run(sockets=[place])
    logger.info("ended")


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for place in sockets or []:
            host, port = place.getsockname()[:2]
            logger.info("serving on http://%s:%d", f"[{host}]" if ":" in host else host, port)
