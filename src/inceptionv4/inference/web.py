"""Images by their address: http and https alone, of a limited size, within a limited time.

The time is counted over all that a server can draw out: its name's look-up, the connection, headers, `100 Continue`,
redirections, the body and what follows it.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import string
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import Future
from functools import cache, partial
from importlib import metadata
from typing import Any
from urllib.parse import quote, urljoin

from inceptionv4.errors import ImageError
from inceptionv4.runtime.credentials import has_credentials, hide_credentials

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
"""A scheme of one letter would be a drive of Windows."""
SCHEMES = ("http", "https")
MAX_BYTES = 64 * 2**20
"""Of an answer, counted as it comes: what a server promises may be missing, or wrong."""
PATIENCE_SECONDS = 10.0
"""For the look-up of a name, for a connection, and between two pieces of an answer."""
MAX_SECONDS = 60.0
"""From the request to the end of the answer, whatever comes in between."""
PIECE = 2**16
REDIRECTIONS = (301, 302, 303, 307, 308)
MAX_REDIRECTIONS = 10
HEADERS = {"User-Agent": f"inceptionv4/{metadata.version('inceptionv4')}"}


def is_address(place: str) -> bool:
    """Whether this is an address, of whatever scheme, and no path."""
    return ADDRESS.match(place) is not None


def is_fetched(address: str) -> bool:
    """Whether an address is of a scheme that is fetched; unlike `is_address`, not of a file or anything else."""
    return address.lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def fetch(address: str) -> bytes:
    """What is at `address`, through the proxies that the environment names.

    Raises:
        ImageError: not of http or https, there or where it leads to; with a password in it; unreachable, refused, too
            large or too slow.
    """
    deadline = time.monotonic() + MAX_SECONDS
    place = address
    address = hide_credentials(address)
    late = ImageError(f"{address} cannot be fetched: it did not end within {MAX_SECONDS:g} s")
    try:
        for _ in range(MAX_REDIRECTIONS + 1):
            if not is_fetched(place):
                raise ImageError(f"{_led(place, address)} is not fetched: images come from http and https alone")
            if has_credentials(place):
                raise ImageError(
                    f"{_led(place, address)} is not fetched: there is a name or a password in it, which others could "
                    "read in commands and results; fetch it by curl --netrc or the like, and give the file"
                )
            # Spaces and letters beyond ASCII are often typed as they are; what is quoted already stays so.
            request = _Request(quote(place, safe=string.punctuation), headers=HEADERS)
            request.deadline = deadline
            try:
                with _opener().open(request) as answer:
                    return _receive(answer, address)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in REDIRECTIONS or "Location" not in error.headers:
                        words = f"the server answers {error.code} {error.reason}"
                        raise ImageError(f"{address} cannot be fetched: {words}") from None
                    place = urljoin(place, error.headers["Location"])
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, TimeoutError) and time.monotonic() >= deadline:
            raise late from None
        words = f"no answer within {PATIENCE_SECONDS:g} s" if isinstance(reason, TimeoutError) else _words(reason)
        raise ImageError(f"{address} cannot be fetched: {words}") from None
    except TimeoutError:
        if time.monotonic() >= deadline:
            raise late from None
        raise ImageError(f"{address} cannot be fetched: nothing came for {PATIENCE_SECONDS:g} s") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ImageError(f"{address} cannot be fetched: {_words(error)}") from None
    raise ImageError(f"{address} cannot be fetched: it leads on, more than {MAX_REDIRECTIONS} times")


def _led(place: str, address: str) -> str:
    """A place as an error names it, to which redirections from `address` may have led."""
    place = hide_credentials(place)
    return place if place == address else f"{place}, where {address} leads,"


def _receive(answer: http.client.HTTPResponse, address: str) -> bytes:
    promised = answer.length
    if promised is not None and promised > MAX_BYTES:
        raise ImageError(f"{address} has {promised:,} bytes; the limit is {MAX_BYTES:,}")
    content = bytearray()
    while piece := answer.read1(PIECE):
        content += piece
        if len(content) > MAX_BYTES:
            raise ImageError(f"{address} has more than {MAX_BYTES:,} bytes, the limit")
    if promised is not None and len(content) < promised:
        raise ImageError(f"{address} cannot be fetched: it ended after {len(content):,} of {promised:,} bytes")
    return bytes(content)


def _wait(deadline: float) -> float:
    """Seconds to wait for the next thing that a server does.

    Raises:
        TimeoutError: the deadline is over.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(PATIENCE_SECONDS, left)


class _Request(urllib.request.Request):
    deadline: float


class _Reader(io.RawIOBase):
    """What comes over a socket; no read waits beyond the deadline."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = connected, deadline
        self._raw: Any = connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(_wait(self._deadline))
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, connected: socket.socket, *arguments: Any, deadline: float, **options: Any) -> None:
        super().__init__(connected, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(connected, deadline))


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str, *, deadline: float, **options: Any) -> None:
        super().__init__(host, **options)
        self.response_class = partial(_Response, deadline=deadline)  # type: ignore[assignment]
        self._create_connection = partial(_connect, deadline)


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    """The handshake, too, waits no longer than the connection did."""


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        assert isinstance(request, _Request)
        return self.do_open(_Connection, request, deadline=request.deadline)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        assert isinstance(request, _Request)
        options: dict[str, Any] = {"deadline": request.deadline, "context": _tls()}
        return self.do_open(_TlsConnection, request, **options)  # type: ignore[arg-type]


@cache
def _tls() -> ssl.SSLContext:
    """To read the system's certificates takes longer than many an image."""
    return ssl.create_default_context()


def _connect(deadline: float, address: tuple[str, int], *_: object) -> socket.socket:
    """A connection to the first of a host's addresses that answers."""
    places: Future[list[Any]] = Future()

    def look_up() -> None:
        try:
            places.set_result(socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001 - raised where the result is asked for
            places.set_exception(error)

    # The system's resolver asks as long as it likes, and cannot be told to stop.
    threading.Thread(target=look_up, name="resolver", daemon=True).start()
    failure: OSError = OSError("the name has no address")
    for family, kind, protocol, _, place in places.result(_wait(deadline)):
        connected = socket.socket(family, kind, protocol)
        try:
            connected.settimeout(_wait(deadline))
            connected.connect(place)
            return connected
        except OSError as error:
            connected.close()
            failure = error
    raise failure


@cache
def _opener() -> urllib.request.OpenerDirector:
    """Without urllib's handlers of other schemes, and of redirections, whose bodies it reads without limit."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Handler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _words(error: object) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
