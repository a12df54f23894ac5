"""A process that serves: its address, its signals, its end."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

import uvicorn

from inceptionv4.errors import Error, StoppedError, UsageError
from inceptionv4.serving.app import App
from inceptionv4.serving.connection import Connection

KEEP_ALIVE_SECONDS = 20
"""For which a connection that has been answered waits for its next request."""
DRAIN_SECONDS = 5.0
"""That draining may take beyond the time in which every request is answered or given up."""


def bind(host: str, port: int) -> socket.socket:
    """A socket with that address; port 0 takes a free one. Nobody can connect before `serve` listens.

    Raises:
        UsageError: the address is another's, or none of this machine's.
    """
    try:
        if not 0 <= port < 2**16:
            raise OverflowError("no such port")  # some systems would count it modulo 65,536
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as opened:
            bound = opened.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what the last server left is no hindrance
            bound.bind(address)
            opened.pop_all()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot serve at {host}, port {port}: {reason}; choose others by --host and --port") from None
    return bound


def address_of(bound: socket.socket) -> str:
    """As people write it: http://127.0.0.1:8000."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(app: App, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Answer until SIGTERM or SIGINT asks to stop, and then until all that was accepted is answered.

    `ready` is called when connections are taken. SIGTERM is the ordinary end of a server, after which this returns:
    what manages processes takes any other exit code than 0 for a failure.

    Raises:
        StoppedError: SIGINT, after which a shell's loop is to stop, too; or a second signal, after which nothing more
            is answered.
        UsageError: another process listens there.
        Error: what was accepted was not answered in time.
    """
    server = Server(app, ready)
    # The collector need not go through all of torch each time that a large request makes many objects: without this,
    # a million values of JSON hold everything up for 0.7 s instead of 0.2.
    gc.freeze()
    try:
        asyncio.run(server.serve([bound]))
    finally:
        unanswered = app.answerer.batcher.admitted
        app.close()
    if server.force_exit:
        raise StoppedError(server.received or signal.SIGTERM, "stopped at once by a second signal")
    if unanswered:
        raise Error(f"{unanswered} images that were accepted were not answered before the end")
    if server.received == signal.SIGINT:
        raise StoppedError(signal.SIGINT, "stopped; all that was accepted is answered")


class Server(uvicorn.Server):
    """uvicorn's, which tells the application that its end has come before it waits for it."""

    def __init__(self, app: App, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app.asgi,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=round(app.answerer.limits.timeout_seconds + DRAIN_SECONDS),
            )
        )
        self.received: signal.Signals | None = None
        self._app, self._ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        try:
            await super().startup(sockets)
        except OSError as error:
            where = address_of(sockets[0]) if sockets else "this address"
            raise UsageError(f"cannot serve at {where}: {error.strerror}; choose another --port") from None
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain."""
        self._app.drain()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the first signal, and end at once after the second; uvicorn would raise them again at its end."""
        self.force_exit = self.should_exit
        self.should_exit, self.received = True, signal.Signals(sig)
