"""Training: set up, then one loop, read from top to bottom."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inceptionv4.config import Config
from inceptionv4.data.index import Dataset, Samples, read_dataset
from inceptionv4.data.loader import TrainingLoader
from inceptionv4.errors import ConfigError, DataError, DivergedError, StoppedError
from inceptionv4.evaluation.evaluate import evaluate_network
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import Device, select_device
from inceptionv4.runtime.signals import StopRequests
from inceptionv4.spec import ModelSpec
from inceptionv4.training.average import MovingAverage
from inceptionv4.training.freeze import freeze, frozen_stages, train_mode
from inceptionv4.training.loss import Loss, class_weights
from inceptionv4.training.mixing import mix
from inceptionv4.training.optimizer import build_optimizer
from inceptionv4.training.recorder import Recorder, StepRecord
from inceptionv4.training.run import create_run
from inceptionv4.training.schedule import learning_rate
from inceptionv4.training.state import Position, load_state, read_position, restore, save_state
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint
from inceptionv4.weights.load import BEST, start_from


def train(config: Config, *, run: Path | None = None) -> Path:
    """Train as `config` says, and return the run folder.

    Every epoch ends with an evaluation on the held-out images and a saved state; the averaged weights with the highest
    top-1 are kept as `best`. With `run`, a folder that `find_run` found, its training goes on where its newest sound
    state is: on a CPU, everything is then as if it had never stopped, to the last bit.

    Raises:
        ConfigError: no data are named.
        UsageError: no such device or starting weights.
        DataError: the data cannot be used, are not those of the run, or have too many images that cannot be decoded.
        CheckpointError: the run's states are of other settings.
        RunError: the run folder cannot be written.
        DivergedError: the loss or the gradient is no longer finite; the weights before that step are kept.
        StoppedError: SIGTERM or SIGINT; the step was finished, and the state saved.
    """
    # What a user can get wrong comes first, so that a mistake costs seconds and leaves nothing behind.
    if config.data.path is None:
        raise ConfigError("data.path is not set: say which images to train on with --data FOLDER")
    device = select_device(config.training.device, config.training.precision)
    dataset = read_dataset(config.data.path, config.data.val_fraction)
    spec = ModelSpec(
        classes=dataset.classes,
        width=config.model.width,
        preprocessing=config.image,
        origin=f"inceptionv4, recipe {config.recipe}",
    )
    frozen = frozen_stages(config.training.freeze)
    facts = _training_facts(config, dataset)
    saved, complaints = load_state(run) if run is not None else (None, [])
    if saved is not None and saved.training["data"]["fingerprint"] != facts["data"]["fingerprint"]:
        raise DataError(f"the images at {config.data.path} are not those that {run} was trained on; start a new run")
    torch.manual_seed(config.seed)
    network = InceptionV4(len(spec.classes), dropout=config.model.dropout, width=config.model.width)
    if config.model.weights is not None and saved is None:
        start_from(network, spec.classes, config.model.weights)
    run = create_run(config, device) if run is None else run

    freeze(network, frozen)
    device.place(network)
    average = MovingAverage(network, config.training.ema_decay)
    optimizer = build_optimizer(network, config.optimizer)
    workers = device.default_workers() if config.data.workers is None else config.data.workers
    loader = TrainingLoader(dataset.train, config, workers=workers)
    loss = Loss(config.loss, len(spec.classes), class_weights(dataset.train, config.loss, device))
    epochs, position = config.schedule.epochs, Position()
    if saved is not None:
        restore(saved, network, average, optimizer)
        position = read_position(saved)
        loader.bad |= position.bad
    images = epochs * len(loader) * loader.batch_size

    with (
        StopRequests() as stop,
        Recorder(run, images, epochs, epoch=position.epoch, step=position.step) as recorder,
    ):
        recorder.announce(_opening(run, device, dataset, network))
        for complaint in complaints:
            recorder.announce(f"passed over: {complaint}")
        if saved is not None:
            recorder.announce(f"going on after step {position.step}")
        last_saved = time.monotonic()

        def model(**more: object) -> Checkpoint:
            reached = {"epoch": position.epoch, "step": position.step}
            return Checkpoint(average.network.state_dict(), spec, facts | reached | more)

        def save(checkpoint: Checkpoint) -> None:
            nonlocal last_saved
            save_state(run, checkpoint, network, average, optimizer, position, config.checkpoint.keep)
            last_saved = time.monotonic()

        def leave_if_asked(images: int = 0) -> None:
            if stop.received is not None:
                save(model())
                raise StoppedError(
                    stop.received,
                    f"{stop.received.name} after step {position.step}; everything is saved, "
                    f"go on with `inceptionv4 train --resume {run}`",
                )

        while position.epoch < epochs and not out_of_patience(position, config.training.patience):
            train_mode(network, frozen)
            for batch in loader.epoch(position.epoch, position.batch):
                seed = step_seed(config.seed, position.step)
                torch.manual_seed(seed)
                lr = learning_rate(position.step, config, len(loader))
                inputs = batch.to_input(device.device, config.image)
                targets = loss.targets(batch.labels.to(device.device, non_blocking=True))
                inputs, targets = mix(inputs, targets, config.augment, np.random.default_rng(seed))
                total, weight = 0.0, loss.weight(targets)
                # A batch that does not fit goes through in parts: their gradients add up to that of the whole.
                for part in parts(len(batch), config.training.accumulate):
                    with device.autocast():
                        logits = network(inputs[part])
                    mean = loss(logits.float(), targets[part]) / weight
                    mean.backward()  # type: ignore[no-untyped-call]
                    total += mean.item()
                gradient_norm = clip_gradient(network, config.optimizer.clip_norm)
                check_finite(total, gradient_norm, position.step, dataset.train, batch.indices)
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["lr_scale"]
                optimizer.step()
                optimizer.zero_grad()
                average.update()
                position = replace(position, batch=batch.number + 1, step=position.step + 1, bad=dict(loader.bad))
                recorder.step(StepRecord(position.epoch + 1, position.step, total, lr, gradient_norm, len(batch)))
                leave_if_asked()
                if time.monotonic() - last_saved >= 60 * config.checkpoint.every_minutes:
                    save(model())

            metrics = evaluate_network(
                average.network, dataset.val, config.image, device, workers=workers, after_batch=leave_if_asked
            )
            is_best = (metrics.top1, -metrics.loss) > position.best
            position = replace(position, epoch=position.epoch + 1, batch=0, bad=dict(loader.bad))
            if is_best:
                position = replace(position, best=(metrics.top1, -metrics.loss), best_epoch=position.epoch)
            recorder.epoch(metrics, is_best, skipped=list(loader.bad.values()))
            evaluated = model(metrics=asdict(metrics))
            # The best comes first: a training that is killed in between comes here again.
            if is_best:
                save_checkpoint(evaluated, run / BEST)
            save(evaluated)
        if position.epoch < epochs:
            recorder.announce(
                f"stopped after epoch {position.epoch}: none was better since epoch {position.best_epoch}"
            )
    return run


def out_of_patience(position: Position, patience: int | None) -> bool:
    """Whether the last `patience` epochs brought nothing better."""
    return patience is not None and position.epoch - position.best_epoch >= patience


def parts(images: int, count: int) -> list[slice]:
    """A batch of `images` in `count` parts of nearly equal size, or fewer: a batch norm needs two images in each."""
    count = max(min(count, images // 2), 1)
    edges = [images * part // count for part in range(count + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def step_seed(seed: int, step: int) -> int:
    """The seed of what is random in one step, mixing and dropout: there is no state to be resumed."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def clip_gradient(network: nn.Module, largest: float | None) -> float:
    """Scale the whole gradient down to norm `largest` (None: leave it), and return the norm that it had."""
    return nn.utils.clip_grad_norm_(network.parameters(), math.inf if largest is None else largest).item()


def check_finite(loss: float, gradient_norm: float, step: int, samples: Samples, indices: Tensor) -> None:
    """Stop before the optimizer would write what is no number into the weights.

    Raises:
        DivergedError: naming the step and the samples.
    """
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    names = ", ".join(samples.describe(index) for index in indices[:5].tolist())
    raise DivergedError(
        f"training diverged in step {step + 1}: loss {loss:g}, gradient norm {gradient_norm:g}; its {len(indices)} "
        f"images begin with {names}; lower --optimizer.lr or raise --schedule.warmup_epochs "
        "(the last epoch's checkpoint is sound)"
    )


def _training_facts(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint says of its training: the settings, and by which images to tell the data again."""
    return {
        "config": asdict(config),
        "data": {
            "location": str(Path(dataset.source.location).resolve()),
            "fingerprint": dataset.train.fingerprint,
            "val_fraction": config.data.val_fraction,
        },
    }


def _opening(run: Path, device: Device, dataset: Dataset, network: nn.Module) -> str:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    ignored = dataset.source.table.ignored
    others = f"; other files ignored: {ignored}" if ignored else ""
    return (
        f"{run}: Inception-v4, {parameters:,} parameters, on {device.describe()}\n"
        f"{dataset.source.location}: {len(dataset.classes)} classes, {len(dataset.train):,} images to train on, "
        f"{len(dataset.val):,} held out ({dataset.layout}{others})"
    )
