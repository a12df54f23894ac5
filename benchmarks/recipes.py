"""The paper's recipe against the modern one, at equal compute: top-1 on two small data sets, three seeds.

    python benchmarks/recipes.py --json [--fashion FOLDER]

Both recipes are taken as they are, but for what a small data set dictates: 75 px, a quarter of the width, batches of
32, as many images shown, an average over a hundredth of the steps, and for the digits no flip. Learning rates follow
the batch by each recipe's rule; warm-up and decay keep their share of the training. FOLDER has the four files of
Fashion-MNIST, which Debian's package `dataset-fashion-mnist` puts where the default says; 2,000 images of them are
trained on and 1,000 others tested.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import circumstances, report
from PIL import Image

from inceptionv4.config import Config, load_config
from inceptionv4.training.loop import train
from inceptionv4.weights.checkpoint import load_checkpoint

FASHION = Path("/usr/share/datasets/fashion-mnist")
GARMENTS = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
RECIPES = ("imagenet-paper", "imagenet")
SEEDS = (0, 1, 2)


def write_fashion(source: Path, folder: Path) -> None:
    """The first 2,000 images for training and the first 1,000 for testing, as PNGs in class folders."""
    for split, name, count in (("train", "train", 2000), ("val", "t10k", 1000)):
        images = gzip.decompress((source / f"{name}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((source / f"{name}-labels-idx1-ubyte.gz").read_bytes())
        pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
        for number, label in enumerate(labels[8 : 8 + count]):
            path = folder / split / GARMENTS[label] / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[number]).save(path)


def scaled(recipe: str, data: str, epochs: int, seed: int, output: Path) -> Config:
    """The recipe for a small data set."""
    whole = load_config(recipe)
    share = epochs / whole.schedule.epochs
    return dataclasses.replace(
        whole,
        seed=seed,
        output=str(output),
        data=dataclasses.replace(whole.data, path=data),
        image=dataclasses.replace(whole.image, size=75, crop=1.0),
        augment=dataclasses.replace(whole.augment, flip=0.0 if data == "digits" else 0.5),
        model=dataclasses.replace(whole.model, width=0.25),
        schedule=dataclasses.replace(
            whole.schedule,
            epochs=epochs,
            warmup_epochs=whole.schedule.warmup_epochs * share,
            decay_epochs=whole.schedule.decay_epochs * share,
            first_size=None,
        ),
        training=dataclasses.replace(whole.training, batch_size=32, ema_decay=0.99, device="cpu", precision="fp32"),
    )


def measure(data: str, epochs: int, output: Path) -> dict[str, dict[str, object]]:
    top1: dict[str, list[float]] = {recipe: [] for recipe in RECIPES}
    seconds: dict[str, list[float]] = {recipe: [] for recipe in RECIPES}
    for seed in SEEDS:
        for recipe in RECIPES:
            start = time.perf_counter()
            run = Path(train(scaled(recipe, data, epochs, seed, output)))
            seconds[recipe].append(time.perf_counter() - start)
            last = load_checkpoint(run / "checkpoints/last.safetensors")
            top1[recipe].append(100 * last.training["metrics"]["top1"])
    return {
        recipe: {
            "top1": top1[recipe],
            "mean": statistics.mean(top1[recipe]),
            "deviation": statistics.stdev(top1[recipe]),
            "seconds": statistics.median(seconds[recipe]),
        }
        for recipe in RECIPES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, default=FASHION)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, object] = {**circumstances(("torch",)), "epochs": options.epochs}
    with tempfile.TemporaryDirectory() as folder:
        fashion = Path(folder) / "fashion"
        write_fashion(options.fashion, fashion)
        for name, data in (("digits", "digits"), ("fashion", str(fashion))):
            results[name] = measure(data, options.epochs, Path(folder) / "runs")
    report(results, options.json)


if __name__ == "__main__":
    main()
