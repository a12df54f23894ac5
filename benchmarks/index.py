"""What an index costs as the data grow: size on disk, seconds to open, memory, and memory with threads that read.

    python benchmarks/index.py --json

The samples are simulated: names like ImageNet's and offsets into sparse shards of 1,400 images; no image exists. Each
index is opened by a fresh process, as a training would: `read_dataset`, from the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import circumstances, report

from inceptionv4.data import cache
from inceptionv4.data.formats.shards import ShardSource
from inceptionv4.data.table import TRAIN, VAL, StringArray, Table, narrow

SIZES = (10**4, 10**5, 10**6, 10**7, 14 * 10**6)
SHARD, CLASSES, IMAGE = 1400, 1000, 110_000

OPEN = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from inceptionv4.data.index import read_dataset

def memory():
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return {name: int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}

before, start = memory()["VmRSS"], time.perf_counter()
dataset = read_dataset(sys.argv[1])
seconds, opened = time.perf_counter() - start, memory()
def memory_with(workers):
    rows = range(0, len(dataset.train), len(dataset.train) // 2000)
    with ThreadPoolExecutor(workers) as pool:
        sum(pool.map(lambda row: len(dataset.train.read(row)), rows))
    return memory()["VmRSS"] - before

print(json.dumps({
    "open_seconds": seconds,
    "memory_mb": opened["VmRSS"] - before,
    "peak_process_mb": opened["VmHWM"],
    "with_1_worker_mb": memory_with(1),
    "with_16_workers_mb": memory_with(16),
    "samples": len(dataset.train) + len(dataset.val),
}, allow_nan=False))
"""


def simulate(folder: Path, count: int) -> str:
    """Make the shards and the kept index of `count` samples, one in a hundred held out; returns their location."""
    shards = max(count // SHARD, 2)
    per_shard = -(-count // shards)
    paths = []
    for number in range(shards):
        path = folder / f"{'val' if number % 100 == 1 else 'train'}-{number:06}.tar"
        with path.open("wb") as file:
            file.truncate(per_shard * IMAGE)
        paths.append(str(path))
    rows = np.arange(count)
    container = (rows // per_shard).astype(np.int32)
    labels = np.random.default_rng(0).integers(CLASSES, size=count, dtype=np.int32)
    names = StringArray.of(
        f"n{label * 15013:08}/n{label * 15013:08}_{row}.JPEG" for row, label in enumerate(labels.tolist())
    )
    table = Table(
        containers=tuple(paths),
        container=container,
        names=names,
        labels=labels,
        splits=np.where(container % 100 == 1, VAL, TRAIN).astype(np.int8),
        classes=tuple(f"class {label}" for label in range(CLASSES)),
        layout=f"{shards} simulated shards",
        place={"offset": narrow(rows % per_shard * IMAGE), "size": narrow(np.full(count, IMAGE))},
    )
    mark = cache.mark_of(ShardSource.find(str(folder)))
    cache.cached(str(folder), "ShardSource", lambda: table, mark, costly=True)  # small ones are not kept otherwise
    return str(folder)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    results: dict[str, object] = circumstances(("inceptionv4", "numpy"))
    for count in SIZES:
        with tempfile.TemporaryDirectory() as temporary:
            os.environ["XDG_CACHE_HOME"] = f"{temporary}/cache"
            location = Path(temporary) / "data"
            location.mkdir()
            # In a child too: what making the names takes would be counted as this process's.
            subprocess.run([sys.executable, __file__, "--simulate", str(location), str(count)], check=True)
            kept = sum(path.stat().st_size for path in (Path(temporary) / "cache").rglob("*.npz"))
            runs = [
                json.loads(
                    subprocess.run([sys.executable, "-c", OPEN, location], stdout=subprocess.PIPE, check=True).stdout
                )
                for _ in range(given.rounds)
            ]
            assert runs[0].pop("samples") == count
            medians = {name: float(np.median([run[name] for run in runs])) for name in runs[0] if name != "samples"}
            slowest = max(run["open_seconds"] for run in runs)
            results[f"{count:,} samples"] = {"cache_mb": kept / 1e6, **medians, "slowest_open_seconds": slowest}
    report(results, given.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--simulate"]:
        simulate(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
