"""Ten thousand shards on up to a thousand nodes: the work is even, and every image is read once an epoch."""

from __future__ import annotations

import time

import pytest
from simulation import SHARDS, simulate


@pytest.mark.parametrize(("nodes", "workers"), [(1, 16), (64, 8), (1024, 8)])
def test_nodes_share_an_epoch_evenly(nodes: int, workers: int) -> None:
    start = time.process_time()
    work = simulate(nodes, workers, images_of_a_shard=640, images_of_a_step=25)
    assert work.images == SHARDS * 640
    assert (work.missed, work.repeated) == (0, 0)
    assert work.nodes_by_images == 1
    assert work.workers_by_seconds < 1.01
    assert work.nodes_by_bytes < 1.03  # of sizes that differ by half, at 6250 images a node
    assert time.process_time() - start < 10


def test_what_does_not_fill_a_batch_sits_out() -> None:
    """The check above can fail."""
    work = simulate(3, 2, images_of_a_shard=1, images_of_a_step=7)
    assert (work.missed, work.repeated) == (SHARDS % 21, 0)
