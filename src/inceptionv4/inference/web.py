"""Images by their address: http and https alone, of a limited size, within a limited time."""

from __future__ import annotations

import http.client
import re
import string
import time
import urllib.error
import urllib.request
from functools import cache
from importlib import metadata
from urllib.parse import quote, urljoin

from inceptionv4.errors import ImageError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
"""A scheme of one letter would be a drive of Windows."""
SCHEMES = ("http", "https")
MAX_BYTES = 64 * 2**20
"""Of an answer, counted as it comes: what a server promises may be missing, or wrong."""
PATIENCE_SECONDS = 10.0
"""For a connection, and between two pieces of an answer."""
MAX_SECONDS = 60.0
"""For all of an answer."""
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
        ImageError: not of http or https, there or where it leads to; unreachable, refused, too large or too slow.
    """
    deadline = time.monotonic() + MAX_SECONDS
    place = address
    late = ImageError(f"{address} cannot be fetched: it did not end within {MAX_SECONDS:g} s")
    try:
        for _ in range(MAX_REDIRECTIONS + 1):
            if not is_fetched(place):
                leads = "" if place == address else f", where {address} leads"
                raise ImageError(f"{place}{leads} is not fetched: images come from http and https alone")
            # Spaces and letters beyond ASCII are often typed as they are; what is quoted already stays so.
            left = deadline - time.monotonic()
            if left <= 0:
                raise late
            request = urllib.request.Request(quote(place, safe=string.punctuation), headers=HEADERS)
            try:
                with _opener().open(request, timeout=min(PATIENCE_SECONDS, left)) as answer:
                    return _receive(answer, address, deadline, late)
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


def _receive(answer: http.client.HTTPResponse, address: str, deadline: float, late: ImageError) -> bytes:
    promised = answer.length
    if promised is not None and promised > MAX_BYTES:
        raise ImageError(f"{address} has {promised:,} bytes; the limit is {MAX_BYTES:,}")
    content = bytearray()
    while piece := answer.read1(PIECE):
        content += piece
        if len(content) > MAX_BYTES:
            raise ImageError(f"{address} has more than {MAX_BYTES:,} bytes, the limit")
        if time.monotonic() > deadline:
            raise late
    if promised is not None and len(content) < promised:
        raise ImageError(f"{address} cannot be fetched: it ended after {len(content):,} of {promised:,} bytes")
    return bytes(content)


@cache
def _opener() -> urllib.request.OpenerDirector:
    """Without urllib's handlers of other schemes, and of redirections, whose bodies it reads without limit."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _words(error: object) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
