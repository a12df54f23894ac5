"""How it shows that there is no memory left, without torch, which the command line imports only when it is needed."""

from __future__ import annotations

WORDS = ("can't allocate memory", "not enough memory", "out of memory")
"""Of torch: its allocator for CPUs, on Linux and elsewhere, and those for accelerators."""


def is_lack_of_memory(error: Exception) -> bool:
    """Whether an error says that memory was asked for that is not there: Python's, numpy's or torch's."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in WORDS)
