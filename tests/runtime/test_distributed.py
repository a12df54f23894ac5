"""Processes find each other, and not the dead ones of before."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch.distributed as dist

from inceptionv4.errors import RunError
from inceptionv4.runtime import distributed
from inceptionv4.runtime.distributed import Ranks, meet


def test_alone_there_is_nobody_to_ask() -> None:
    ranks = Ranks()
    assert ranks.first
    assert ranks.total(1, 2) == [1, 2]
    assert ranks.broadcast("it") == "it"
    assert ranks.gather("it") == ["it"]


def test_a_store_full_of_the_dead_does_not_mislead() -> None:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def come(rank: int) -> Any:
        return meet(dist.TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False), rank, 3)

    with ThreadPoolExecutor(3) as pool:

        def arrive(*ranks: int) -> list[Future[Any]]:
            return [pool.submit(come, rank) for rank in ranks]

        for generation in ("first", "second"):
            early = arrive(1, 2)
            time.sleep(0.5)
            assert not any(one.done() for one in early), "they took what the first generation left"
            stores = [one.result(timeout=10) for one in arrive(0) + early]
            stores[0].set("said", generation)
            assert [store.get("said") for store in stores] == [generation.encode()] * 3


def test_a_first_process_that_never_comes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    server.set("name", "of a dead one")
    monkeypatch.setattr(distributed, "MEETING_SECONDS", 0.3)
    with pytest.raises(RunError, match=r"process 1 of 2 waited 0\.3 s for the first one"):
        meet(server, 1, 2)
