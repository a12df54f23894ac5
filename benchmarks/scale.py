"""ImageNet-1k on large machines, on paper: the arithmetic of docs/scale.md, whose tables this prints.

    python benchmarks/scale.py

Nothing here was run on such machines. A figure is measured (benchmarks/RESULTS.md), published, a maker's, or assumed;
each says which. All follow from the settings of the recipe `imagenet` and from the network's own work at each size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from inceptionv4.config import load_config
from inceptionv4.network.layers import InceptionV4
from inceptionv4.training.schedule import image_size

TRAIN_IMAGES, VAL_IMAGES = 1_281_167, 50_000
IMAGE_BYTES = 110e3
"""Assumed: 141 GB of JPEGs in the training archive."""
LOADED_PER_CORE = 618
"""Measured: 299 px views of 500 x 375 JPEGs a second and core, where an accelerator changes the light (RESULTS.md)."""
REQUESTS, ROUND_TRIP = 32, 0.02
"""Of each process, at once (docs/storage.md), and the assumed seconds of one."""
PASSES = 3
"""Work of a training step in forward passes: backward is two, for images and for weights."""
PUBLISHED_RATE, PUBLISHED_PEAK = 4430 / 8, 256e12
"""This network on an Ascend 910, images/s (the original's page, 8 devices), and the maker's fp16 FLOP/s of it."""
SMALL_COLLECTIVES = 4
"""Beside the gradient's in a step: counts, loss, statistics, signals."""


@dataclass(frozen=True)
class Cluster:
    """Machines of eight devices. Rates are of each device."""

    name: str
    devices: int
    peak: float
    """The maker's FLOP/s in bf16, dense."""
    bandwidth: float
    """Assumed bytes/s in an all-reduce, of the maker's of the slowest link."""
    latency: float
    """Assumed seconds of one exchange between two devices."""
    batch: int
    """Images of all devices in a step."""

    @property
    def machines(self) -> int:
        return self.devices // 8


CLUSTERS = (
    Cluster("8 x H100", 8, 989e12, 300e9, 10e-6, 1024),
    Cluster("8 x 910B", 8, 313e12, 100e9, 10e-6, 1024),
    Cluster("1024 x H100", 1024, 989e12, 35e9, 20e-6, 32 * 1024),
)


@cache
def forward_work(size: int) -> float:
    """FLOP of one image, two for each multiplication with its addition."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        InceptionV4(1000).eval()(torch.zeros(1, 3, size, size))
    return float(counter.get_total_flops())


@cache
def parameters() -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in InceptionV4(1000).parameters())


def efficiency() -> float:
    """Share of its peak that an Ascend 910 reached with this network; assumed of all others."""
    return PUBLISHED_RATE * PASSES * forward_work(299) / PUBLISHED_PEAK


def rate(cluster: Cluster, size: int) -> float:
    """Images a second that all devices train on, if nothing else holds them up."""
    return cluster.devices * cluster.peak * efficiency() / (PASSES * forward_work(size))


def reduce_seconds(cluster: Cluster, size_bytes: float) -> float:
    """An all-reduce: every device sends and receives nearly twice the bytes; latency by a tree."""
    n = cluster.devices
    return 2 * (n - 1) / n * size_bytes / cluster.bandwidth + 2 * math.log2(n) * cluster.latency


@dataclass(frozen=True)
class Estimate:
    """What the recipe takes on a cluster."""

    rate: float
    mean_rate: float
    top_rate: float
    """Images a second at 299 px, over all epochs, and in the first ones."""
    step: float
    reduce: float
    exposed: float
    """Seconds of a step at 299 px, of its all-reduce, and of what the backward pass does not hide."""
    hours: float


def estimate(cluster: Cluster) -> Estimate:
    config = load_config("imagenet")
    sizes = [image_size(epoch, config) for epoch in range(config.schedule.epochs)]
    gradient = reduce_seconds(cluster, 4 * parameters())
    small = SMALL_COLLECTIVES * reduce_seconds(cluster, 0)

    def seconds(size: int) -> tuple[float, float]:
        """Of a step: computing, and waiting for others. The gradient travels during the backward pass."""
        compute = cluster.batch / rate(cluster, size)
        return compute, max(gradient - compute * 2 / PASSES, 0) + small

    steps = TRAIN_IMAGES // cluster.batch
    training = sum(steps * sum(seconds(size)) for size in sizes)
    evaluation = len(sizes) * VAL_IMAGES / (PASSES * rate(cluster, 299))
    compute, exposed = seconds(299)
    return Estimate(
        rate=rate(cluster, 299),
        mean_rate=len(sizes) * steps * cluster.batch / training,
        top_rate=rate(cluster, sizes[0]),
        step=compute + exposed,
        reduce=gradient,
        exposed=exposed,
        hours=(training + evaluation) / 3600,
    )


def table() -> str:
    """One column a cluster."""
    estimates = [estimate(cluster) for cluster in CLUSTERS]
    pairs = list(zip(CLUSTERS, estimates, strict=True))
    rows = {
        "images in a step, of one device": [f"{c.batch // c.devices}" for c in CLUSTERS],
        "images/s at 299 px": [f"{e.rate:,.0f}" for e in estimates],
        "images/s over all epochs": [f"{e.mean_rate:,.0f}" for e in estimates],
        "images/s in the first epochs": [f"{e.top_rate:,.0f}" for e in estimates],
        "**hours**": [f"**{e.hours:.{1 if e.hours > 1 else 2}f}**" for e in estimates],
        "a step at 299 px, ms": [f"{1e3 * e.step:.0f}" for e in estimates],
        "its all-reduce, ms": [f"{1e3 * e.reduce:.1f}" for e in estimates],
        "of that and the small ones not hidden, ms": [f"{1e3 * e.exposed:.1f}" for e in estimates],
        "loader cores of a machine at 299 px": [f"{e.rate / c.machines / LOADED_PER_CORE:.0f}" for c, e in pairs],
        "loader cores of a machine, first epochs, at most": [
            f"{e.top_rate / c.machines / LOADED_PER_CORE:.0f}" for c, e in pairs
        ],
        "GB to each machine once, to stay": [f"{TRAIN_IMAGES * IMAGE_BYTES / 1e9:.0f}" for _ in CLUSTERS],
        "TB to all machines once": [f"{c.machines * TRAIN_IMAGES * IMAGE_BYTES / 1e12:.2f}" for c in CLUSTERS],
        "GB/s from storage if nothing stays": [f"{e.mean_rate * IMAGE_BYTES / 1e9:.1f}" for e in estimates],
        "of one process then, images/s": [f"{e.mean_rate / c.devices:,.0f}" for c, e in pairs],
    }
    head = ["| |", *(f" {cluster.name} |" for cluster in CLUSTERS), "\n|---|", "---|" * len(CLUSTERS), "\n"]
    return "".join(head) + "\n".join(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())


if __name__ == "__main__":
    print(table())
    print(f"\nefficiency {efficiency():.3f}; {forward_work(299) / 1e9:.1f} GFLOP forward at 299 px")
    print(
        f"{4 * parameters() / 1e6:.0f} MB of gradient; {REQUESTS / ROUND_TRIP:,.0f} images/s by requests of a process"
    )
