"""A process that serves: its address, its signals, its end."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import NoReturn

import uvicorn

from inceptionv4.errors import Error, StoppedError, UsageError
from inceptionv4.printable import note
from inceptionv4.runtime.process import SIGNALS, end_at_once, handle
from inceptionv4.serving.app import App
from inceptionv4.serving.connection import Connection, Connections
from inceptionv4.serving.limits import BACKLOG, allow_connections

KEEP_ALIVE_SECONDS = 20
"""Seconds that a connection waits for its next request."""
TURNS = 8
"""Turns of the event loop in which connections that the system has already made are accepted before the server stops
listening, which would reset them."""
DRAIN_SECONDS = 5.0
"""Seconds that draining may take beyond the time in which every request is answered or given up."""


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


def start(app: App) -> None:
    """Warm the model up. What a signal does is from here on up to this module.

    Raises:
        StoppedError: SIGTERM, SIGHUP or SIGINT.
        Exception: what the runtime raises at its first answer.
    """

    def give_up(number: int, frame: FrameType | None) -> NoReturn:
        handle(SIGNALS, _end_at_once)
        raise StoppedError(number, "stopped before it was ready")

    handle(SIGNALS, give_up)
    app.start()


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """The second signal: whatever is at work is left where it is."""
    if number == signal.SIGHUP:
        return  # of a terminal that closes, shell and system both send one: no user is impatient
    note("stopped at once by a second signal")
    end_at_once(128 + number)


def serve(app: App, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Answer until SIGTERM, SIGHUP or SIGINT asks to stop, and then until all that was accepted is answered.

    `ready` is called when connections are taken. SIGTERM is the ordinary end of a server, and so is SIGHUP, of its
    terminal; after both this returns: what manages processes takes any other exit code than 0 for a failure. A second
    signal ends the process at once, and does so after this has returned, too.

    Raises:
        StoppedError: SIGINT, after which a shell's loop is to stop, too.
        UsageError: another process listens there.
        Error: what was accepted was not answered in time.
    """
    server = Server(app, ready)
    # The collector need not go through all of torch each time that a large request makes many objects: without this,
    # a million values of JSON hold everything up for 0.7 s instead of 0.2.
    gc.freeze()
    asyncio.run(server.serve([bound]))
    if unanswered := app.service.batcher.admitted:
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
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=round(app.service.limits.timeout_seconds + DRAIN_SECONDS),
            )
        )
        self.server_state = self.connections = Connections(allow_connections())
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
        self.connections.draining = True
        for _ in range(TURNS):
            await asyncio.sleep(0)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle them from here on, and to the end of the process: a second one may come as late as that."""
        if threading.current_thread() is threading.main_thread():
            handle(SIGNALS, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the first signal, and end at once after the second."""
        if self.received is None:
            self.should_exit, self.received = True, signal.Signals(sig)
        else:
            _end_at_once(sig, frame)
