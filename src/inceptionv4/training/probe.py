"""Short trials before a training: what it needs, how long it will take, and which learning rate to try."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from inceptionv4.config import MOST_IMAGES, Config
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import Batch, TrainingLoader, used_batch_size
from inceptionv4.data.options import options_from
from inceptionv4.data.samples import Dataset
from inceptionv4.errors import ConfigError, DivergedError
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.runtime.device import Device, select_device
from inceptionv4.runtime.memory import peak_memory, total_memory
from inceptionv4.runtime.progress import Progress
from inceptionv4.spec import ModelSpec
from inceptionv4.training.build_model import build_model
from inceptionv4.training.schedule import image_size, peak_rate
from inceptionv4.training.train_step import TrainStep

HEADROOM = 0.9
"""Share of the memory that may be planned for."""


@dataclass(frozen=True)
class Plan:
    """What a training needs: bytes, images a second, hours. Rates are of `image.size`; hours count smaller images."""

    device: str
    batch_size: int
    part_size: int
    memory_bytes: int
    memory_total_bytes: int
    largest_part: int
    loader_images_per_second: float
    compute_images_per_second: float
    images_per_second: float
    training_hours: float
    evaluation_hours: float
    disk_bytes: int


class Trial:
    """The beginning of a training, without a run folder."""

    def __init__(self, config: Config) -> None:
        """Raises:
        ConfigError: no data are named.
        UsageError: no such device or starting weights.
        DataError: the data cannot be used.
        """
        if config.data.path is None:
            raise ConfigError("data.path is not set: say which images to train on with --data FOLDER")
        # A part of a batch is what memory and speed depend on; compiling would take longer than the trial.
        self.config = replace(config, training=replace(config.training, accumulate=1, compile="none"))
        self.device: Device = select_device(config.training.device, config.training.precision)
        self.dataset: Dataset = read_dataset(config.data.path, config.data.val_fraction, options_from(config.data))
        self.workers = self.device.default_workers() if config.data.workers is None else config.data.workers
        torch.manual_seed(config.seed)
        network, _, _ = build_model(config.model, ModelSpec(classes=self.dataset.classes, width=config.model.width))
        self.train_step = TrainStep(network, self.config, self.dataset.train, self.device)
        self.batch_size = used_batch_size(config, len(self.dataset.train))
        self.part_size = -(-self.batch_size // config.training.accumulate)

    def random_batch(self, images: int) -> Batch:
        """Noise of the right shape, so that the data play no role."""
        generator = np.random.default_rng(0)
        size = self.config.image.size
        return Batch(
            images=torch.from_numpy(generator.integers(0, 256, (images, 3, size, size), np.uint8)),
            labels=torch.from_numpy(generator.integers(0, len(self.dataset.classes), images)),
            indices=torch.zeros(images, dtype=torch.int64),
        )

    def time_step(self, images: int) -> float:
        """Seconds of a step on so many images that are there already; the first such step is not counted."""
        batch = self.random_batch(images)
        self.train_step.step(batch, 0, 0.0)
        start = time.perf_counter()
        self.train_step.step(batch, 1, 0.0)
        return time.perf_counter() - start

    def evaluation_rate(self, images: int) -> float:
        """Images a second of an evaluation, on so many that are there already, in `training.eval_precision`."""
        device = self.device.for_evaluation(self.config.training.eval_precision)
        spec = ModelSpec(classes=self.dataset.classes, width=self.config.model.width, preprocessing=self.config.image)
        backend = TorchBackend(self.train_step.ema.network, spec, device, mode="eager")
        batch = self.random_batch(images).images
        backend.infer(batch)
        start = time.perf_counter()
        backend.infer(batch)
        return images / (time.perf_counter() - start)

    def batches(self, images: int) -> Iterator[Batch]:
        """Real batches, without end."""
        config = replace(
            self.config,
            training=replace(self.config.training, batch_size=images),
            data=replace(self.config.data, repeats=1),
        )
        loader = TrainingLoader(self.dataset.train, config, workers=self.workers)
        epoch = 0
        while True:
            yield from loader.epoch(epoch)
            epoch += 1

    def memory_by_images(self, seconds: float) -> tuple[int, float, float]:
        """The largest batch tried, and peak memory as `base + slope * images`, bytes, from steps of ever more images.

        It ends with `seconds`, or with a batch that is as large as a part will be.
        """
        start, tried = time.perf_counter(), [(images, self._memory_of(images)) for images in (2, 4)]
        while tried[-1][0] < self.part_size and 3 * (time.perf_counter() - start) < seconds:
            images = min(2 * tried[-1][0], self.part_size)
            tried.append((images, self._memory_of(images)))
        (fewer, low), (more, high) = tried[-2:]
        slope = max((high - low) / (more - fewer), 1.0)
        return more, high - slope * more, slope

    def _memory_of(self, images: int) -> int:
        self.time_step(images)
        return peak_memory(self.device)


def make_plan(config: Config, seconds: float = 30.0) -> Plan:
    """Try the beginning of a training for about `seconds` seconds, and say what all of it will take."""
    trial = Trial(config)
    images, base, slope = trial.memory_by_images(0.4 * seconds)
    compute = images / trial.time_step(images)
    loaded = _rate(trial.batches(images), 0.15 * seconds)
    trained = _rate(_trained(trial, images), 0.3 * seconds)
    total = total_memory(trial.device)
    sizes = [image_size(epoch, config) / config.image.size for epoch in range(config.schedule.epochs)]
    work = sum(size**2 for size in sizes)  # epochs, by what they cost
    answered = trial.evaluation_rate(images)
    evaluated = config.schedule.epochs * len(trial.dataset.val)
    return Plan(
        device=trial.device.describe(),
        batch_size=trial.batch_size,
        part_size=trial.part_size,
        memory_bytes=round(base + slope * trial.part_size),
        memory_total_bytes=total,
        largest_part=max(int((HEADROOM * total - base) / slope), 0),
        loader_images_per_second=loaded,
        compute_images_per_second=compute,
        images_per_second=trained,
        training_hours=work * len(trial.dataset.train) / trained / 3600,
        evaluation_hours=evaluated / min(answered, loaded) / 3600,
        disk_bytes=_disk(trial),
    )


def find_batch_size(config: Config, seconds: float = 15.0) -> int:
    """The largest part of a batch that the memory takes, by steps of ever more images, extrapolated."""
    trial = Trial(config)
    trial.part_size = MOST_IMAGES  # of noise: the data do not limit it
    _, base, slope = trial.memory_by_images(seconds)
    return max(int((HEADROOM * total_memory(trial.device) - base) / slope), 0)


SETTLED = 10
"""Steps that a mean with a decay of 0.9 is of."""


@dataclass(frozen=True)
class RateTest:
    """Learning rates, rising, and the smoothed loss after each; the one to try is a tenth of that with the lowest.

    The first ones do not count: until the smoothed loss is one of ten steps, it is lowest where a batch was easy.
    """

    rates: list[float]
    losses: list[float]
    now: float = 0.0
    """The peak rate of the settings as they are."""

    @property
    def suggestion(self) -> float:
        settled = min(SETTLED, len(self.losses) // 2)
        return self.rates[settled + int(np.argmin(self.losses[settled:]))] / 10


def find_learning_rate(config: Config, steps: int = 100, lowest: float = 1e-6, highest: float = 1.0) -> RateTest:
    """Raise the learning rate step by step until the loss leaves its course (arXiv 1506.01186, section 3.3).

    A step takes a part of a batch. The loss is smoothed as Adam's mean is, with 0.9.
    """
    trial = Trial(config)
    images = trial.part_size
    batches = trial.batches(images)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    progress = Progress("trying learning rates", total=steps * images, lines=10)
    for number in range(steps):
        rate = lowest * (highest / lowest) ** (number / (steps - 1))
        try:
            step = trial.train_step.step(next(batches), number, rate)
        except DivergedError:
            break
        if step is None:
            continue
        progress.advance(step.images, f"{rate:.1e}  loss {step.loss:.3f}")
        mean = 0.9 * mean + 0.1 * step.loss
        rates.append(rate)
        losses.append(mean / (1 - 0.9 ** (len(rates))))
        if losses[-1] > 4 * min(losses):
            break
    return RateTest(rates, losses, peak_rate(config, trial.batch_size))


def _trained(trial: Trial, images: int) -> Iterator[Batch]:
    """Real batches, each trained on with a learning rate of zero."""
    for number, batch in enumerate(trial.batches(images)):
        trial.train_step.step(batch, number, 0.0)
        yield batch


def _rate(batches: Iterator[Batch], seconds: float) -> float:
    """Images a second over about `seconds` seconds, not counting the first batch."""
    next(batches)
    start, images = time.perf_counter(), 0
    while images == 0 or time.perf_counter() - start < seconds:
        images += len(next(batches))
    return images / (time.perf_counter() - start)


def _disk(trial: Trial) -> int:
    """Bytes of the states and of the best model."""
    train_step = trial.train_step
    model = sum(tensor.nbytes for tensor in train_step.network.state_dict().values())
    slots = sum(
        value.nbytes
        for slots in train_step.optimizer.state.values()
        for value in slots.values()
        if isinstance(value, torch.Tensor)
    )
    return int(trial.config.checkpoint.keep * (2 * model + slots) + model)
