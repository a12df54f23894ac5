"""Several processes that train or evaluate as one, as `torchrun` starts them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from inceptionv4.errors import DataError, Error, RunError
from inceptionv4.runtime.device import Device
from inceptionv4.runtime.launcher import read_launch

T = TypeVar("T")

MEETING_SECONDS = 1800
"""That processes wait for the first one, which may have to fetch and list its data; torch waits as long for a step."""


@dataclass(frozen=True)
class Ranks:
    """Process number `rank` of `count`. Every method must be called by all of them, in the same order.

    Alone, they all return what they were given.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and speaks to people."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def total(self, *values: float) -> list[float]:
        """Each of a few numbers, added up over the processes in float32."""
        return self.sum(torch.tensor(values, device=self.device)).tolist() if self.count > 1 else list(values)

    def broadcast(self, value: T) -> T:
        """What the first process has."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """What each process has."""
        values: list[Any] = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return values

    def require_same(self, value: object, name: str) -> None:
        """See that all processes have the same of what is called `name`, which each of them read for itself.

        Raises:
            DataError: one has not, on all processes.
        """
        values = self.gather(value)
        other = next((rank for rank, theirs in enumerate(values) if theirs != values[0]), None)
        if other is not None:
            raise DataError(
                f"{name} of process {other} of {self.count} are not those of the first; "
                "give all machines the same data under the same path, or a URI"
            )


@contextmanager
def join_ranks(device: Device) -> Iterator[Ranks]:
    """The processes of `torchrun`, of which this is one, connected while this is open; without `torchrun`, it alone.

    They talk by what torch takes for the device: gloo for a CPU, nccl for NVIDIA's, hccl for Ascend's.

    Raises:
        RunError: another process is gone.
        UsageError: the environment contradicts itself, so that `torchrun` cannot have made it.
    """
    launch = read_launch()
    count = launch.count
    if count == 1:
        yield Ranks()
        return
    try:
        store, rank, _ = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        dist.init_process_group(device.collectives(), store=meet(store, rank, count), rank=rank, world_size=count)
        yield Ranks(rank, count, device.device)
    except Error:
        raise
    except RuntimeError as error:
        # Gloo has no class of its own for a lost connection; what it says begins with the place in its source.
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise RunError(
            f"process {launch.rank} of {count} lost the others ({str(error).splitlines()[0]}); "
            "one of them says why; `torchrun --max-restarts 3 ... --resume auto` goes on by itself"
        ) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def meet(store: Any, rank: int, count: int) -> Any:
    """A part of torch's `Store` that is new to these very processes.

    After a restart `torchrun` hands out the store of the processes before, in which the addresses of the dead ones are
    left (torch 2.14): whoever is quicker than its peers would call those. So the first process gives the part a name
    that has never been, and answers each process that asks under it; a name that nobody answers for is an old one.

    Raises:
        RunError: the first process did not answer in time.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("name", own)
        for other in range(1, count):
            question = store.get(f"{own}/{other}").decode()
            store.set(f"{own}/{other}/{question}", "here")
        return dist.PrefixStore(own, store)  # type: ignore[attr-defined]
    deadline = time.monotonic() + MEETING_SECONDS
    while time.monotonic() < deadline:
        name = store.get("name").decode()
        store.set(f"{name}/{rank}", own)
        if store.check([f"{name}/{rank}/{own}"]):
            return dist.PrefixStore(name, store)  # type: ignore[attr-defined]
        time.sleep(0.05)
    raise RunError(f"process {rank} of {count} waited {MEETING_SECONDS} s for the first one; look why it did not start")
