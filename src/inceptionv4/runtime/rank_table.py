"""Rank tables: JSON in which Ascend's clusters list the machines of a job and their cards, in the order of the ranks.

Two forms are read: version 1.0 and later, of CANN and its tools, with a `rank_id` for each card

    {"status": "completed", "version": "1.0", "server_count": "1", "server_list": [
        {"server_id": "10.0.0.7", "device": [{"device_id": "0", "device_ip": "192.1.27.6", "rank_id": "0"}, ...]}]}

and the one that Kubernetes writes on ModelArts, where ranks follow from the numbers at the ends of the pods' names

    {"status": "completed", "group_count": "1", "group_list": [{"instance_count": "1", "instance_list": [
        {"pod_name": "job-0", "server_id": "10.0.0.7", "devices": [{"device_id": "0", "device_ip": "..."}, ...]}]}]}

A table is `initializing` until all machines of a job are there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inceptionv4.errors import UsageError
from inceptionv4.strict_json import from_json

FILE = "jobstart_hccl.json"
"""The table's name where a variable names its folder."""
WAIT_SECONDS = 600.0
"""For which a table is waited for that is not complete."""


@dataclass(frozen=True)
class Machine:
    """A machine of a table: its address, the name of its pod if the table says it, and its cards' ranks, sorted."""

    address: str
    pod: str
    ranks: tuple[int, ...]


def read_rank_table(path: Path, seconds: float = WAIT_SECONDS) -> list[Machine]:
    """The machines of a rank table, in the order of their ranks.

    Raises:
        UsageError: it cannot be read, is no rank table, or is not complete within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while (table := _read(path)).get("status") != "completed":
        if time.monotonic() >= deadline:
            raise UsageError(
                f"the rank table {path} is {table.get('status')!r} and not completed after {seconds:g} s; "
                "look whether all machines of the job have started"
            )
        time.sleep(min(1.0, seconds))
    try:
        machines = _listed(table) if "server_list" in table else _numbered(table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no rank table that is known here: {error!r}") from None
    ranks = [rank for machine in machines for rank in machine.ranks]
    if not ranks or sorted(ranks) != list(range(len(ranks))):
        raise UsageError(f"the ranks in the rank table {path} are not 0, 1, 2 and so on: {ranks}")
    return sorted((machine for machine in machines if machine.ranks), key=lambda machine: machine.ranks)


def _read(path: Path) -> dict[str, Any]:
    try:
        table = from_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"the rank table {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"the rank table {path} is no JSON: {error}") from None
    if not isinstance(table, dict):
        raise UsageError(f"{path} is no rank table: it is no JSON object")
    return table


def _listed(table: dict[str, Any]) -> list[Machine]:
    return [
        Machine(str(server["server_id"]), "", tuple(sorted(int(card["rank_id"]) for card in server["device"])))
        for server in table["server_list"]
    ]


def _numbered(table: dict[str, Any]) -> list[Machine]:
    pods = [pod for group in table["group_list"] for pod in group["instance_list"]]
    pods.sort(key=lambda pod: int(pod["pod_name"].rpartition("-")[2]))
    machines, first = [], 0
    for pod in pods:
        count = len(pod["devices"] or ())
        machines.append(Machine(str(pod["server_id"]), pod["pod_name"], tuple(range(first, first + count))))
        first += count
    return machines
