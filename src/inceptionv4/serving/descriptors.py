"""How many connections the descriptors of this process are enough for."""

from __future__ import annotations

import sys

from inceptionv4.serving.limits import CONNECTIONS, SPARE_DESCRIPTORS


def allow_connections() -> int:
    """How many there may be: `CONNECTIONS`, or fewer if the system's hard limit says so: an eighth of it at least.

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
