"""The machines of a job, by the variables of ModelArts and of Ascend's clusters.

    MA_NUM_HOSTS, VC_WORKER_HOSTS, VC_TASK_INDEX    how many there are, their names, and which this is
    MA_NUM_GPUS                                     accelerators of whichever kind on each; 0 where there are none
    RANK_TABLE_FILE                                 all that, for Ascends, as JSON (`runtime.rank_table`)
    RANK_ID, RANK_SIZE                              which process this is of all, where one is started for each card
    MA_CURRENT_HOST_IP, MA_CURRENT_INSTANCE_NAME    what the table calls this machine

Each may be missing, as long as the others say it. None of them comes first: where they contradict each other, nothing
is started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inceptionv4.errors import UsageError
from inceptionv4.runtime.rank_table import FILE, Machine, read_rank_table

PER_CARD = ("RANK_TABLE_FILE", "RANK_TABLE_FILE_V_1_0", "RANK_ID", "RANK_SIZE", "ASCEND_DEVICE_ID")
"""What a boot file is told that ModelArts starts for each Ascend; HCCL would follow the table."""


@dataclass(frozen=True)
class Machines:
    """The machines of a job: their addresses, which of them this is, and the processes that are to run here."""

    hosts: list[str]
    index: int
    processes: int
    is_starter: bool = True
    """False: another process of this machine starts them all."""


def find_machines(variables: Mapping[str, str]) -> Machines:
    """What the variables say, and the rank table that they name.

    Raises:
        UsageError: they contradict each other, leave something open, or are no numbers; the table cannot be read.
    """
    table = _table(variables)
    hosts = [host for host in variables.get("VC_WORKER_HOSTS", "").split(",") if host]
    count = _agreed(
        "the number of machines",
        {
            "MA_NUM_HOSTS": _number(variables, "MA_NUM_HOSTS"),
            "VC_WORKER_HOSTS": len(hosts) or None,
            "the rank table": len(table) or None,
        },
    )
    count = 1 if count is None else count
    if count < 1:
        raise UsageError("MA_NUM_HOSTS is 0; start this once on each machine of a ModelArts job")
    rank, ranks = _number(variables, "RANK_ID"), _number(variables, "RANK_SIZE") or None
    size = _agreed(
        "the number of processes",
        {"RANK_SIZE": ranks, "the rank table": sum(len(machine.ranks) for machine in table) or None},
    )
    if size is not None and not table and size % count:
        raise UsageError(f"RANK_SIZE is {size}, which {count} machines cannot share equally")
    if rank is not None and (size is None or rank >= size):
        raise UsageError(f"RANK_ID is {rank}, and RANK_SIZE {size}; start this as ModelArts does, or unset both")
    even = size // count if size is not None else None
    index = _agreed("which machine this is", _places(variables, table, rank, even))
    if index is None and count > 1:
        raise UsageError(f"there are {count} machines, and nothing says which this is; set VC_TASK_INDEX")
    index = 0 if index is None else index
    if index >= count:
        raise UsageError(f"this is machine {index} by VC_TASK_INDEX, and there are {count}, the first of them 0")
    own = table[index].ranks if table else tuple(range(index * (even or 0), (index + 1) * (even or 0)))
    processes = _agreed(
        "the number of processes of this machine",
        {
            "MA_NUM_GPUS": _number(variables, "MA_NUM_GPUS") or None,  # without accelerators it is 0
            "the rank table" if table else f"RANK_SIZE, for {count} machines,": len(own) or None,
        },
    )
    if count > 1 and not hosts and not table:
        raise UsageError(
            f"MA_NUM_HOSTS is {count}, but neither VC_WORKER_HOSTS nor a rank table names them; start this once on "
            "each machine of a ModelArts job"
        )
    hosts = hosts or [machine.address for machine in table]
    return Machines(hosts, index, processes or 1, _is_starter(variables, rank, own))


def _table(variables: Mapping[str, str]) -> list[Machine]:
    """The rank table; empty if none is named, or if it is not there and is not needed."""
    named = variables.get("RANK_TABLE_FILE") or variables.get("RANK_TABLE_FILE_V_1_0")
    if not named:
        return []
    path = Path(named) / FILE if Path(named).is_dir() else Path(named)
    if not path.exists() and (_number(variables, "MA_NUM_GPUS") or _number(variables, "RANK_SIZE")):
        return []
    return read_rank_table(path)


def _places(
    variables: Mapping[str, str], table: Sequence[Machine], rank: int | None, even: int | None
) -> dict[str, int | None]:
    """By whom this machine is known, and as which."""
    address, pod = variables.get("MA_CURRENT_HOST_IP"), variables.get("MA_CURRENT_INSTANCE_NAME")
    by_rank = None
    if rank is not None:
        by_rank = next((place for place, machine in enumerate(table) if rank in machine.ranks), None)
        if not table and even:
            by_rank = rank // even
    return {
        "VC_TASK_INDEX": _number(variables, "VC_TASK_INDEX"),
        "RANK_ID": by_rank,
        "MA_CURRENT_HOST_IP": _only([place for place, machine in enumerate(table) if machine.address == address]),
        "MA_CURRENT_INSTANCE_NAME": _only([place for place, machine in enumerate(table) if pod and machine.pod == pod]),
    }


def _only(places: Sequence[int]) -> int | None:
    return places[0] if len(places) == 1 else None


def _is_starter(variables: Mapping[str, str], rank: int | None, own: Sequence[int]) -> bool:
    """True for the first of the processes that are started for each card, and for one that is started alone."""
    if rank is not None:
        return rank == own[0]
    device = variables.get("ASCEND_DEVICE_ID")
    if "RANK_TABLE_FILE" not in variables or device in (None, "0"):
        return True
    raise UsageError(
        f"ASCEND_DEVICE_ID is {device} and there is a rank table, but no RANK_ID says which of its processes this is; "
        "start this once on each machine, without ASCEND_DEVICE_ID, or once for each card, with RANK_ID and RANK_SIZE"
    )


def _agreed(what: str, said: Mapping[str, int | None]) -> int | None:
    """What all say that say anything; None if none does."""
    given = {name: number for name, number in said.items() if number is not None}
    if len(set(given.values())) > 1:
        words = ", ".join(f"{number} by {name}" for name, number in given.items())
        raise UsageError(f"{what} is not certain: {words}; start this once on each machine of a ModelArts job")
    return next(iter(given.values()), None)


def _number(variables: Mapping[str, str], name: str) -> int | None:
    text = variables.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{name} must be a number, got {text!r}")
    return int(text)
