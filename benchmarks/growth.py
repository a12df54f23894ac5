"""How time and memory grow: with files up to the first training step, and with the step's size, batch, classes and
processes.

    python benchmarks/growth.py --json > growth.json
    python benchmarks/growth.py --draw docs/images/growth.png growth.json

A process of its own for each point. Start: a folder of class folders of JPEGs of 75 px, from 10,000 to 1,280,000 files,
which are hard links to a few thousand contents, so that the file system has as many names to list as with ImageNet and
few bytes to keep; from the start of Python to the end of the first step, of a narrow network (width 0.1, 75 px, batch
16), with no index kept ("first"), and with that which the first start kept ("again"). Step: `TrainStep.step` in fp32 on
two threads, n times after one that does not count: the median, and the fastest, which is drawn, since others on the
machine only add to it; memory is the peak of the process. A batch of one image has no step, as the norms need two.
Width is a quarter, so that all of it takes minutes, but for the classes, which are many beside a network of full
width: there images are of 75 px. Two processes share a batch under `torchrun`, a thread each, and memory is that of
the larger one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

SIZES = (75, 107, 139, 203, 299, 448)
BATCHES = (2, 4, 8, 16, 32, 64)
CLASSES = (10, 100, 1000, 10_000, 21_841)
PROCESSES = (1, 2)
FILES = (10_000, 100_000, 1_280_000)
FOLDERS, CONTENTS = 1000, 2000
THREADS = 2
GROWING = (
    "files (75 px, batch 16, width 0.1)",
    "image size, px (batch 8, width 0.25)",
    "batch (139 px, width 0.25)",
    "classes (75 px, batch 16, width 1)",
    "processes (139 px, batch 32, width 0.25)",
)
DRAWN = {
    "first_seconds": ("seconds", "to the first step, no index kept"),
    "again_seconds": ("seconds", "to the first step, index kept"),
    "fastest": ("seconds", "a step"),
    "first_peak_mb": ("peak of the process, MB", "no index kept"),
    "again_peak_mb": ("peak of the process, MB", "index kept"),
    "peak_mb": ("peak of the process, MB", "steps"),
}
"""Figures that are drawn: where, and what they are called there."""


def make_tree(root: Path, count: int) -> None:
    """`count` files in 1000 class folders, links to 2000 small JPEGs of noise beside the tree."""
    import numpy as np
    from PIL import Image

    sources = root / "sources"
    sources.mkdir()
    generator = np.random.default_rng(0)
    for number in range(CONTENTS):
        coarse = Image.fromarray(generator.integers(0, 256, (10, 10, 3), np.uint8))
        coarse.resize((75, 75)).save(sources / f"{number}.jpg")
    for label in range(FOLDERS):
        folder = root / "data" / f"n{label:08}"
        folder.mkdir(parents=True)
        for number in range(count // FOLDERS):
            source = sources / f"{(label * 7 + number) % CONTENTS}.jpg"
            os.link(source, folder / f"n{label:08}_{number}.JPEG")


def config_of(size: int, width: float, batch: int, data: str | None = None) -> Any:
    from inceptionv4.config import Config, DataConfig, ModelConfig, TrainingConfig
    from inceptionv4.spec import Preprocessing

    return Config(
        data=DataConfig(path=data),
        image=Preprocessing(size=size),
        model=ModelConfig(width=width),
        training=TrainingConfig(batch_size=max(batch, 2), precision="fp32", device="cpu"),
    )


def first_step(data: str, began: float) -> dict[str, float]:
    """Seconds since `began`, a time of day, until the index is there, and until the first step is done."""
    import torch

    from inceptionv4.data.loader import TrainingLoader
    from inceptionv4.training.probe import Trial

    torch.set_num_threads(THREADS)
    trial = Trial(config_of(75, 0.1, 16, data))
    indexed = time.time() - began
    batch = next(TrainingLoader(trial.dataset.train, trial.config, workers=1).epoch(0))
    trial.train_step.step(batch, 0, 0.0)
    return {"ready_seconds": indexed, "first_step_seconds": time.time() - began, "peak_mb": peak_mb()}


def steps(size: int, batch: int, classes: int, width: float, rounds: int) -> dict[str, float]:
    """The median seconds of a step, and the peak of this process, of the processes that `torchrun` made of it."""
    import numpy as np
    import torch

    from inceptionv4.data.index import read_dataset
    from inceptionv4.data.loader import Batch
    from inceptionv4.network.layers import InceptionV4
    from inceptionv4.runtime.device import select_device
    from inceptionv4.runtime.distributed import join_ranks
    from inceptionv4.training.train_step import TrainStep

    device = select_device("cpu", "fp32")
    with join_ranks(device) as ranks:
        torch.set_num_threads(THREADS // ranks.count)
        share = batch // ranks.count
        digits = read_dataset("digits").all()
        samples = replace(digits, classes=tuple(f"class {number}" for number in range(classes)))
        train_step = TrainStep(InceptionV4(classes, width=width), config_of(size, width, batch), samples, device, ranks)
        pixels = np.random.default_rng(ranks.rank).integers(0, 256, (share, 3, size, size), np.uint8)
        noise = Batch(
            images=torch.from_numpy(pixels), labels=torch.arange(share) % classes, indices=torch.arange(share)
        )
        seconds = []
        for number in range(rounds + 1):
            start = time.perf_counter()
            train_step.step(noise, number, 0.0)
            seconds.append(time.perf_counter() - start)
        peak = max(ranks.gather(peak_mb()))
        first = ranks.first
    counted = seconds[1:]
    return {
        "first": first,
        "seconds": statistics.median(counted),
        "fastest": min(counted),
        "slowest": max(counted),
        "peak_mb": peak,
    }


def peak_mb() -> float:
    from inceptionv4.runtime.memory import peak_process_memory

    return peak_process_memory() / 2**20


def alone(*arguments: object, processes: int = 1) -> dict[str, float]:
    """What this script prints for `arguments`, in a process of its own, or in several."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, __file__, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS // processes)}
    result = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    figures: dict[str, float] = json.loads(result.stdout)
    print(*arguments, f"{processes} processes", figures, file=sys.stderr)
    return figures


def start_up(rounds: int) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for count in FILES:
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            make_tree(root, count)
            os.environ["XDG_CACHE_HOME"] = str(root / "cache")
            first = alone("--start", root / "data", time.time())
            again = [alone("--start", root / "data", time.time()) for _ in range(rounds)]
            rows[str(count)] = {
                "first_seconds": first["first_step_seconds"],
                "again_seconds": statistics.median(figures["first_step_seconds"] for figures in again),
                "again_slowest": max(figures["first_step_seconds"] for figures in again),
                "first_peak_mb": first["peak_mb"],
                "again_peak_mb": again[0]["peak_mb"],
            }
            shutil.rmtree(root / "data")
    return rows


def curves(rounds: int) -> list[dict[str, dict[str, float]]]:
    """Time and memory of a step, for each thing that grows but files."""

    def step(size: int, batch: int, classes: int, width: float, processes: int = 1) -> dict[str, float]:
        return alone("--step", size, batch, classes, width, rounds, processes=processes)

    return [
        {str(size): step(size, 8, 1000, 0.25) for size in SIZES},
        {str(batch): step(139, batch, 1000, 0.25) for batch in BATCHES},
        {str(classes): step(75, 16, classes, 1.0) for classes in CLASSES},
        {str(count): step(139, 32, 1000, 0.25, count) for count in PROCESSES},
    ]


def slopes(rows: dict[str, dict[str, float]]) -> dict[str, list[float]]:
    """Exponents of each figure from one point to the next: 1 is proportional, 0 constant."""

    def slope(figure: str, one: str, other: str) -> float:
        return math.log(rows[other][figure] / rows[one][figure]) / math.log(float(other) / float(one))

    figures = [name for name in next(iter(rows.values())) if name in DRAWN]
    return {name: [round(slope(name, *pair), 2) for pair in itertools.pairwise(rows)] for name in figures}


def draw(results: dict[str, Any], path: Path) -> None:
    """A column for each thing that grows, with time above and memory below, a decade as high everywhere in a row."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

    panels = {name: results[name] for name in GROWING if name in results and not name.startswith("processes")}
    figure = Figure(figsize=(4 * len(panels), 8), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False, sharey="row")
    for column, (name, rows) in enumerate(panels.items()):
        ticks = [float(x) for x in rows]
        for panel, words in zip(axes[:, column], ("seconds", "peak of the process, MB"), strict=True):
            for figure_name, (drawn_in, label) in DRAWN.items():
                if drawn_in == words and figure_name in next(iter(rows.values())):
                    panel.plot(ticks, [values[figure_name] for values in rows.values()], "o-", label=label)
            panel.set(xscale="log", yscale="log", xlabel=name, ylabel=words if column == 0 else None)
            panel.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], rotation=45)
            panel.xaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
            panel.legend(frameon=False)
    figure.savefig(path, dpi=100)


def main() -> None:
    from measure import circumstances, report

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("start", "step"), help="one half of it")
    parser.add_argument("--draw", nargs="+", type=Path, metavar=("PNG", "JSON"), help="draw results, measure nothing")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    if given.draw:
        for file in given.draw[1:]:
            results |= json.loads(file.read_text())
        draw(results, given.draw[0])
        return
    if given.only != "step":
        results[GROWING[0]] = start_up(given.rounds)
    if given.only != "start":
        results |= dict(zip(GROWING[1:], curves(given.rounds), strict=True))
    exponents = {f"slopes, {name}": slopes(rows) for name, rows in results.items()}
    report({**circumstances(("inceptionv4", "torch")), **results, **exponents, "n": given.rounds}, given.json)


if __name__ == "__main__":
    match sys.argv[1:2]:
        case ["--start"]:
            print(json.dumps(first_step(sys.argv[2], float(sys.argv[3])), allow_nan=False))
        case ["--step"]:
            size, batch, classes, width, rounds = sys.argv[2:]
            figures = steps(int(size), int(batch), int(classes), float(width), int(rounds))
            if figures.pop("first"):
                print(json.dumps(figures, allow_nan=False))
        case _:
            main()
