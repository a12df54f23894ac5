"""What `torchrun` tells each process that it starts, by environment variables.

    RANK, WORLD_SIZE                which process this is, and of how many
    LOCAL_RANK, LOCAL_WORLD_SIZE    the same among those of this machine
    MASTER_ADDR, MASTER_PORT        where the first process is met

Without them a process is alone. Some of them, or ones that contradict each other, are refused: a process that takes
itself for another one's helper prints nothing and ends as if all were well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from inceptionv4.errors import UsageError

NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What several processes need to meet, beside their number."""


@dataclass(frozen=True)
class Launch:
    """Process number `rank` of `count`; of those on this machine number `local_rank` of `local_count`."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1


def read_launch(variables: Mapping[str, str] | None = None) -> Launch:
    """Which of several processes this is; `variables` are the environment's if not given.

    Raises:
        UsageError: variables are missing, are no numbers, or contradict each other.
    """
    variables = os.environ if variables is None else variables
    if "WORLD_SIZE" not in variables:
        if alone := next((name for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE") if name in variables), None):
            raise _refused(f"{alone} is set and WORLD_SIZE is not")
        return Launch()
    count = _number(variables, "WORLD_SIZE", 1, 1)
    if count > 1 and (missing := [name for name in NEEDED if not variables.get(name)]):
        raise _refused(f"WORLD_SIZE is {count}, but not all are set that go with it: {', '.join(missing)} missing")
    if count > 1:
        _number(variables, "MASTER_PORT", 1, 1, 2**16 - 1)
    rank, local_rank = (_number(variables, name, 0, 0) for name in ("RANK", "LOCAL_RANK"))
    local_count = _number(variables, "LOCAL_WORLD_SIZE", 1, 1)
    of = "LOCAL_WORLD_SIZE" if "LOCAL_WORLD_SIZE" in variables else "WORLD_SIZE"
    _require_below("RANK", rank, "WORLD_SIZE", count)
    _require_below("LOCAL_RANK", local_rank, of, count if of == "WORLD_SIZE" else local_count)
    if local_count > count:
        raise _refused(f"LOCAL_WORLD_SIZE is {local_count}, and WORLD_SIZE {count}")
    return Launch(rank, count, local_rank, local_count)


def _require_below(name: str, number: int, of: str, count: int) -> None:
    if number >= count:
        raise _refused(f"{name} is {number}, and {of} is {count}, so that the last one is number {count - 1}")


def _number(variables: Mapping[str, str], name: str, default: int, least: int, most: int | None = None) -> int:
    text = variables.get(name, str(default))
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if number < least or (most is not None and number > most):
        limit = f" to {most}" if most is not None else " on"
        raise _refused(f"{name} must be a number from {least}{limit}, got {text!r}")
    return number


def _refused(reason: str) -> UsageError:
    return UsageError(
        f"{reason}; torchrun sets these variables for each process that it starts: start by torchrun, or unset RANK, "
        "WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE to use one process"
    )
