"""Training: set up, then one loop, read from top to bottom."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from inceptionv4.config import Config
from inceptionv4.data.index import Dataset, Samples, read_dataset
from inceptionv4.data.loader import TrainingLoader
from inceptionv4.errors import ConfigError, DivergedError
from inceptionv4.evaluation.evaluate import evaluate_network
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import Device, select_device
from inceptionv4.spec import ModelSpec
from inceptionv4.training.average import MovingAverage
from inceptionv4.training.optimizer import build_optimizer
from inceptionv4.training.recorder import Recorder, StepRecord
from inceptionv4.training.run import create_run
from inceptionv4.training.schedule import learning_rate
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint
from inceptionv4.weights.load import BEST, LAST, start_from


def train(config: Config) -> Path:
    """Train as `config` says, and return the run folder.

    Every epoch ends with an evaluation on the held-out images and a checkpoint, `last`; the one with the highest
    top-1 is kept as `best`. Where weights are averaged, the average is what is evaluated and saved.

    Raises:
        ConfigError: no data are named.
        UsageError: no such device or starting weights.
        DataError: the data cannot be used, or more than 1 % of the training images cannot be decoded.
        RunError: the run folder cannot be written.
        DivergedError: the loss or the gradient is no longer finite; the weights before that step are kept.
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
    torch.manual_seed(config.seed)
    network = InceptionV4(len(spec.classes), dropout=config.model.dropout, width=config.model.width)
    if config.model.weights is not None:
        start_from(network, spec.classes, config.model.weights)
    run = create_run(config, device)

    device.place(network)
    average = MovingAverage(network, config.training.ema_decay)
    optimizer = build_optimizer(network, config.optimizer)
    workers = device.default_workers() if config.data.workers is None else config.data.workers
    loader = TrainingLoader(dataset.train, config, workers=workers)
    weights = class_weights(dataset.train, config.training.class_weights, device)
    epochs, step, best = config.schedule.epochs, 0, (-1.0, 0.0)

    with Recorder(run, images=epochs * len(loader) * loader.batch_size, epochs=epochs) as recorder:
        recorder.announce(_opening(run, device, dataset, network))
        for epoch in range(epochs):
            network.train()
            for batch in loader.epoch(epoch):
                lr = learning_rate(step, config, len(loader))
                images = batch.to_input(device.device, config.image)
                labels = batch.labels.to(device.device, non_blocking=True)
                with device.autocast():
                    logits = network(images)
                loss = cross_entropy(logits.float(), labels, weights, label_smoothing=config.training.label_smoothing)
                loss.backward()  # type: ignore[no-untyped-call]
                gradient_norm = clip_gradient(network, config.optimizer.clip_norm)
                check_finite(loss.item(), gradient_norm, step, dataset.train, batch.indices)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                optimizer.step()
                optimizer.zero_grad()
                average.update()
                step += 1
                recorder.step(StepRecord(epoch + 1, step, loss.item(), lr, gradient_norm, len(batch)))

            metrics = evaluate_network(average.network, dataset.val, config.image, device, workers=workers)
            facts = _training_facts(config, dataset) | {"epoch": epoch + 1, "step": step, "metrics": asdict(metrics)}
            checkpoint = Checkpoint(average.network.state_dict(), spec, facts)
            save_checkpoint(checkpoint, run / LAST)
            is_best = (metrics.top1, -metrics.loss) > best
            if is_best:
                best = metrics.top1, -metrics.loss
                save_checkpoint(checkpoint, run / BEST)
            recorder.epoch(metrics, is_best, skipped=list(loader.bad.values()))
    return run


def class_weights(samples: Samples, kind: Literal["none", "balanced"], device: Device) -> Tensor | None:
    """Of the loss, float32 `(classes,)`: `n / (K n_k)` for a class of `n_k` of all n images in K classes; or None.

    An image counts one on average over the data, as scikit-learn's "balanced" has it. A class without images never
    occurs; its weight is 0.
    """
    if kind == "none":
        return None
    counts = torch.from_numpy(samples.counts)
    occurring = (counts > 0).sum()
    weights = torch.where(counts > 0, len(samples) / (occurring * counts), 0.0)
    return weights.to(device.device, torch.float32)


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
