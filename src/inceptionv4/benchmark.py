"""How fast this machine trains, answers and loads: rounds of work, each of which is timed, after one that is not."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch

from inceptionv4.config import Config, PrecisionOption, RuntimeOption
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import Batch, TrainingLoader
from inceptionv4.data.options import options_from
from inceptionv4.errors import ConfigError
from inceptionv4.inference.classifier import Classifier
from inceptionv4.inference.images import check_places, find_images
from inceptionv4.runtime.device import select_device
from inceptionv4.runtime.memory import peak_memory
from inceptionv4.training.probe import Trial

LOADING_SECONDS = 2.0
"""Length of a round of the loader, s."""
BATCHES = 4
"""Batches of a round of answers."""

Work = Callable[[], int]
"""Does something once, and returns for how many images that was."""


@dataclass(frozen=True)
class Speed:
    """Images a second, over some rounds."""

    median: float
    slowest: float
    fastest: float


@dataclass(frozen=True)
class TrainingSpeed:
    """Speed of training steps on images that are in memory."""

    device: str
    image_size: int
    batch_size: int
    first_step_seconds: float
    images_per_second: Speed
    peak_memory_bytes: int
    rounds: int


@dataclass(frozen=True)
class PredictionSpeed:
    """Speed from files to answers, and of the model alone, on pixels that are in memory."""

    runtime: str
    tried: Mapping[str, float | str]
    """With the runtime `auto`: those that were tried, and their images a second, or why they have none."""
    image_size: int
    batch_size: int
    images_per_second: Speed
    model_images_per_second: Speed
    share_of_model: float
    """Median over rounds of the first over the second."""
    rounds: int


@dataclass(frozen=True)
class LoadingSpeed:
    """Speed from files to batches, as a training gets them."""

    workers: int
    image_size: int
    batch_size: int
    images: int
    """Number of images in the data set."""
    images_per_second: Speed
    rounds: int


def measure_training(config: Config, rounds: int = 5) -> TrainingSpeed:
    """Time training steps as `config` says: the whole step, with its part of the batch if it is taken in parts.

    Raises:
        ConfigError: no data are named, which the classes come from.
        UsageError: no such device or starting weights.
        DataError: the data cannot be used.
    """
    trial = Trial(config)
    batch = trial.random_batch(trial.part_size)
    start = time.perf_counter()
    trial.train_step.step(batch, 0, 0.0)
    first = time.perf_counter() - start

    def step() -> int:
        trial.train_step.step(batch, 1, 0.0)
        return len(batch)

    speeds = _rounds({"step": step}, rounds)
    return TrainingSpeed(
        device=trial.device.describe(),
        image_size=config.image.size,
        batch_size=trial.part_size,
        first_step_seconds=first,
        images_per_second=_speed(speeds["step"]),
        peak_memory_bytes=peak_memory(trial.device),
        rounds=rounds,
    )


def measure_prediction(
    model: str,
    images: Sequence[str],
    *,
    device: str = "auto",
    precision: PrecisionOption | None = None,
    runtime: RuntimeOption | None = None,
    rounds: int = 5,
) -> PredictionSpeed:
    """Time `model` on the first of `images`, four batches of them, repeated if they are fewer.

    Raises:
        UsageError: no such model, device or image, or the model is not computed so.
        CheckpointError: the model is damaged.
        ImageError: one of these images cannot be decoded.
    """
    check_places(images)
    classifier = Classifier.load(model, device=device, precision=precision, runtime=runtime)
    backend, size = classifier.backend, classifier.spec.preprocessing.size
    backend.warm_up()
    count = BATCHES * backend.batch_size
    found = list(islice(find_images(images), count))
    files = list(islice(cycle(found), count))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (backend.batch_size, 3, size, size), generator=generator, dtype=torch.uint8)

    def answer() -> int:
        return sum(len(backend.infer(pixels)) for _ in range(BATCHES))

    speeds = _rounds({"files": lambda: len(classifier(files)), "model": answer}, rounds)
    return PredictionSpeed(
        runtime=backend.describe(),
        tried={trial.runtime: trial.images_per_second or trial.reason for trial in backend.trials},
        image_size=size,
        batch_size=backend.batch_size,
        images_per_second=_speed(speeds["files"]),
        model_images_per_second=_speed(speeds["model"]),
        share_of_model=statistics.median(a / b for a, b in zip(speeds["files"], speeds["model"], strict=True)),
        rounds=rounds,
    )


def measure_loading(config: Config, rounds: int = 5) -> LoadingSpeed:
    """Time the loader of a training as `config` says, two seconds a round.

    Raises:
        ConfigError: no data are named, or they do not fill a batch.
        DataError: the data cannot be used.
        ImageError: an image cannot be decoded, and none may be skipped.
    """
    if config.data.path is None:
        raise ConfigError("data.path is not set: say which images to load with --data FOLDER")
    device = select_device(config.training.device, config.training.precision)
    samples = read_dataset(config.data.path, config.data.val_fraction, options_from(config.data)).train
    workers = device.default_workers() if config.data.workers is None else config.data.workers
    loader = TrainingLoader(samples, config, workers=workers)
    batches = _without_end(loader)

    def load() -> int:
        end, images = time.perf_counter() + LOADING_SECONDS, 0
        while time.perf_counter() < end:
            images += len(next(batches))
        return images

    speeds = _rounds({"loader": load}, rounds)
    return LoadingSpeed(
        workers=workers,
        image_size=config.image.size,
        batch_size=loader.batch_size,
        images=len(samples),
        images_per_second=_speed(speeds["loader"]),
        rounds=rounds,
    )


def _without_end(loader: TrainingLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _rounds(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Images a second of each work, which all have their turn in a round."""
    speeds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            images = work()
            if number:
                speeds[name].append(images / (time.perf_counter() - start))
    return speeds


def _speed(rounds: list[float]) -> Speed:
    return Speed(statistics.median(rounds), min(rounds), max(rounds))
