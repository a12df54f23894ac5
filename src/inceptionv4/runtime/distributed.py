"""Several processes that train or evaluate as one, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from inceptionv4.errors import Error, RunError
from inceptionv4.runtime.device import Device

T = TypeVar("T")


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


@contextmanager
def join_ranks(device: Device) -> Iterator[Ranks]:
    """The processes of `torchrun`, of which this is one, connected while this is open; without `torchrun`, it alone.

    They talk by what torch takes for the device: gloo for a CPU, nccl for NVIDIA's, hccl for Ascend's.

    Raises:
        RunError: another process is gone.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    dist.init_process_group(dist.get_default_backend_for_device(device.device))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device.device)
    except Error:
        raise
    except RuntimeError as error:
        # Gloo has no class of its own for a lost connection; what it says begins with the place in its source.
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise RunError(
            f"process {os.environ['RANK']} of {count} lost the others ({str(error).splitlines()[0]}); "
            "one of them says why; `torchrun --max-restarts 3 ... --resume auto` goes on by itself"
        ) from None
    finally:
        dist.destroy_process_group()
