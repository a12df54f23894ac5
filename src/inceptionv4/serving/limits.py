"""Limits of the server: how much it accepts, and for how long it waits."""

from __future__ import annotations

import sys
from dataclasses import dataclass

MAX_IMAGES = 64
"""Images in one request."""
JSON_BYTES = 16 * 2**20
"""Bytes of JSON in one request, without the binary data that follow it."""
JSON_VALUES = 2**20
"""Values in the JSON of one request, counted by its commas. While JSON is parsed nothing else of Python runs, and each
value, of three bytes, may take a hundred in memory."""
CONNECTIONS = 1000
"""Connections at once. One more replaces the one that has been open longest without a request."""
SPARE_DESCRIPTORS = 512
"""Descriptors kept for other things than connections: files, and what the event loop accepts in a few turns, `BACKLOG`
in each, before it sees that there are too many."""
BACKLOG = 128
"""Connections that the system keeps until they are accepted."""
HEAD_SECONDS = 10.0
"""Seconds in which the head of a request must arrive."""
UPLOAD_SECONDS = 30.0
"""Seconds in which the body of a request must arrive."""
WRITE_SECONDS = 30.0
"""Seconds without progress after which a response to a client that does not read is given up."""
PARTING_SECONDS = 1.0
"""Seconds that a connection without a request stays open when the server drains, and then until its client has seen
that it is closed."""
BODIES_HELD = 16
"""Bodies of the largest size, or their worth in smaller ones, that are in memory at once."""


@dataclass(frozen=True)
class Limits:
    """What a user may set."""

    queue: int = 256
    """Images that were accepted and are not answered yet."""
    timeout_seconds: float = 20.0
    """Seconds from a request's last byte to its answer."""
    upload_bytes: int = 32 * 2**20
    """Bytes of the body of one request."""

    @property
    def images(self) -> int:
        """Most images of one request."""
        return min(MAX_IMAGES, self.queue)


def allow_connections() -> int:
    """Raise the limit of descriptors, and return how many connections it allows: `CONNECTIONS`, or what fits.

    The soft limit, often 1024, is raised to what is needed: beyond it nobody's connection could be accepted, a health
    check's neither.
    """
    if sys.platform == "win32":  # which counts no descriptors
        return CONNECTIONS
    import resource

    needed = CONNECTIONS + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not 0 <= soft < needed:  # -1 is no limit
        return CONNECTIONS
    soft = min(needed, hard) if hard >= 0 else needed
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(soft - SPARE_DESCRIPTORS, soft // 8)
