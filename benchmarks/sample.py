"""The life of one training sample, step by step, in microseconds, on one core.

    python benchmarks/sample.py --json

The steps are those of `TrainingLoader` with benchmarks/loader.py's settings, each by the function that does it there:
the file's bytes, the header, the box that chance draws, its pixels, the view, its place in a batch, and what is left
for the device (here the same core): light and normalisation. Each image goes through all steps once a round; given are
the medians over rounds of the mean over images, and the lowest and highest round. "whole" is the loader's own time for
an image, in the same rounds, with no thread but the caller's: what the parts do not explain is what calls cost.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from measure import circumstances, report
from photographs import write_photographs
from torch.nn.functional import interpolate

from inceptionv4.config import AugmentConfig, Config, TrainingConfig
from inceptionv4.data.augment import color_jitter, random_box, sample_generator
from inceptionv4.data.index import read_dataset
from inceptionv4.data.jpeg import open_jpeg
from inceptionv4.data.loader import TrainingLoader
from inceptionv4.data.samples import Samples
from inceptionv4.spec import Preprocessing

BATCH = 16
SETS = {"500x375": (500, 375, 128), "1600x1200": (1600, 1200, 48)}
CONFIG = Config(
    image=Preprocessing(interpolation="bilinear"),
    augment=AugmentConfig(area=(0.08, 1), aspect=(3 / 4, 4 / 3), color=0.4),
    training=TrainingConfig(batch_size=BATCH),
)


class Clock:
    """Seconds by step, from one call to the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] += now - self.last
        self.last = now


def one_by_one(samples: Samples, epoch: int) -> dict[str, float]:
    """Microseconds of each step, mean over the samples."""
    size, augment = CONFIG.image.size, CONFIG.augment
    clock = Clock()
    for start in range(0, len(samples), BATCH):
        rows = range(start, min(start + BATCH, len(samples)))
        views, lights = [], []
        for row in rows:
            clock.lap("between")
            content = samples.read(row)
            clock.lap("read")
            jpeg = open_jpeg(content, exif_orientation=CONFIG.image.exif_orientation)
            assert jpeg is not None
            clock.lap("header")
            generator = sample_generator(CONFIG.seed, epoch, row)
            box = random_box(jpeg.size, augment, generator)
            clock.lap("draw")
            region = jpeg.region(box, size, scaled=CONFIG.data.scaled_decoding)
            assert region is not None
            clock.lap("decode")
            pixels = torch.from_numpy(region).permute(2, 0, 1)[None]
            view = interpolate(pixels, (size, size), mode=CONFIG.image.interpolation, antialias=True)[0].numpy()
            if generator.random() < augment.flip:
                view = view[:, :, ::-1]
            light = generator.uniform(1 - augment.color, 1 + augment.color, 3).astype(np.float32)
            clock.lap("resize")
            views.append(view)
            lights.append(light)
        clock.lap("between")
        images = np.empty((len(rows), 3, size, size), np.uint8)
        for number, view in enumerate(views):
            images[number] = view
        clock.lap("collate")
        color_jitter(torch.from_numpy(images), torch.from_numpy(np.stack(lights)), CONFIG.image)
        clock.lap("light")
    clock.seconds.pop("between")
    return {step: 1e6 * seconds / len(samples) for step, seconds in clock.seconds.items()}


def whole(loader: TrainingLoader, epoch: int) -> float:
    """Microseconds for an image of the loader's own epoch."""
    start, images = time.perf_counter(), 0
    for batch in loader.epoch(epoch):
        images += len(batch.to_input(torch.device("cpu"), CONFIG.image))
    return 1e6 * (time.perf_counter() - start) / images


def profile(width: int, height: int, count: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of each step, a number a round."""
    with tempfile.TemporaryDirectory() as temporary:
        write_photographs(Path(temporary), width, height, count)
        samples = read_dataset(temporary).all()
        loader = TrainingLoader(samples, CONFIG, workers=0)
        laps: dict[str, list[float]] = defaultdict(list)
        for number in range(rounds + 1):
            parts = one_by_one(samples, number)
            together = whole(loader, number)
            if number:  # the first fills caches
                for step, microseconds in {**parts, "sum": sum(parts.values()), "whole": together}.items():
                    laps[step].append(microseconds)
    return laps


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--rounds", type=int, default=7)
    given = arguments.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    results: dict[str, object] = circumstances(("inceptionv4", "torch", "numpy", "simplejpeg"))
    for name, (width, height, count) in SETS.items():
        laps = profile(width, height, count, given.rounds)
        results[f"{name}, microseconds"] = {step: round(statistics.median(values)) for step, values in laps.items()}
        results[f"{name}, spread"] = {step: (round(min(values)), round(max(values))) for step, values in laps.items()}
    results["n"] = given.rounds
    report(results, given.json)


if __name__ == "__main__":
    main()
