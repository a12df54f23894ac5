"""An epoch on a cluster, on paper: which images each node reads, by the loader's own plan, and who decodes them."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from inceptionv4.config import Config, TrainingConfig
from inceptionv4.data.loader import TrainingLoader
from inceptionv4.data.samples import Samples

SHARDS = 10_000
SAMPLED_NODES = 8
"""Whose threads are followed, image by image."""


@dataclass(frozen=True)
class Work:
    """An epoch of `nodes` nodes, with `workers` threads each. Ratios are the largest over the mean."""

    nodes: int
    workers: int
    images: int
    missed: int
    repeated: int
    nodes_by_images: float
    nodes_by_bytes: float
    workers_by_seconds: float
    shards_by_images: float
    shards_of_a_node: float
    """Mean share of the shards that a node reads from."""


def simulate(nodes: int, workers: int, images_of_a_shard: int = 1024, images_of_a_step: int = 40) -> Work:
    """`images_of_a_step` are a node's; sizes and times of decoding are log-normal, as those of photographs are."""
    count = SHARDS * images_of_a_shard
    labels = np.zeros(count, np.int32)
    samples = Samples(cast(Any, None), np.arange(count), labels, ("one",))
    config = Config(training=TrainingConfig(batch_size=nodes * images_of_a_step))
    draws = TrainingLoader(samples, config, workers=workers, ranks=nodes).draws(0)
    times = np.bincount(draws.reshape(-1), minlength=count)
    cost = np.random.default_rng(0).lognormal(sigma=0.5, size=count).astype(np.float32)
    of_nodes = cost[draws].sum((0, 2), dtype=np.float64)
    by_shard = np.bincount(draws.reshape(-1) // images_of_a_shard, minlength=SHARDS)
    followed = [draws[:, node].reshape(-1) for node in range(min(nodes, SAMPLED_NODES))]
    busy = [_busy(cost[own[:100_000]], workers) for own in followed]
    touched = [len(np.unique(own // images_of_a_shard)) / SHARDS for own in followed]
    return Work(
        nodes=nodes,
        workers=workers,
        images=count,
        missed=int((times == 0).sum()),
        repeated=int((times > 1).sum()),
        nodes_by_images=max(draws[:, node].size for node in range(nodes)) * nodes / draws.size,
        nodes_by_bytes=float(of_nodes.max() / of_nodes.mean()),
        workers_by_seconds=max(float(seconds.max() / seconds.mean()) for seconds in busy),
        shards_by_images=float(by_shard.max() / by_shard.mean()),
        shards_of_a_node=float(np.mean(touched)),
    )


def _busy(seconds: np.ndarray, workers: int) -> np.ndarray:
    """How long each thread decodes if whoever is free takes the next image, as threads of a pool do."""
    free = [(0.0, number) for number in range(workers)]
    for duration in seconds.tolist():
        time, number = free[0]
        heapq.heapreplace(free, (time + duration, number))
    return np.array([time for time, _ in free])
