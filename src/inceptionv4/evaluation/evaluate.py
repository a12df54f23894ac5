"""How good a model is on labelled images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from torch import nn

from inceptionv4.data.index import Samples, read_dataset, relabel
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.evaluation.metrics import Metrics, Sums
from inceptionv4.runtime.device import Device, select_device
from inceptionv4.runtime.distributed import Ranks
from inceptionv4.runtime.progress import Progress
from inceptionv4.runtime.storage import absolute
from inceptionv4.spec import Preprocessing
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.load import load_model

BATCH_SIZE = 32


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and on which images."""

    metrics: Metrics
    images: str


def evaluate(model: str | Path, data: str | Path, *, device: str = "auto") -> Evaluation:
    """Measure `model` on the labelled images at `data`: those of its val folder, if it has one, else all.

    Where the images are the very ones that the model was trained on, only those held out then are counted.

    Raises:
        UsageError: no such model or device.
        CheckpointError: the model is damaged.
        DataError: the data cannot be used, or one of its images cannot be decoded.
    """
    on = select_device(device)
    network, checkpoint = load_model(model)
    samples, images = choose_images(data, checkpoint)
    on.place(network)
    with Progress("evaluating", total=len(samples)) as progress:
        metrics = evaluate_network(network, samples, checkpoint.spec.preprocessing, on, after_batch=progress.advance)
    return Evaluation(metrics, images)


def choose_images(data: str | Path, checkpoint: Checkpoint) -> tuple[Samples, str]:
    """The images at `data` that say something about the model, labelled by its classes, and in words which they are."""
    trained_on = checkpoint.training.get("data", {})
    dataset = read_dataset(data, trained_on.get("val_fraction", 0.2))
    if dataset.has_val:
        samples, words = dataset.val, f"the held-out images of {data}"
    elif dataset.train.fingerprint == trained_on.get("fingerprint"):
        samples, words = dataset.val, f"the images of {data} that were held out from training"
    else:
        samples, words = dataset.all(), f"all images of {data}"
        if absolute(data) == trained_on.get("location"):
            words += ", which changed since the model was trained there: it has seen many of these"
    return relabel(samples, checkpoint.spec.classes), words


@torch.inference_mode()
def evaluate_network(
    network: nn.Module,
    samples: Samples,
    preprocessing: Preprocessing,
    device: Device,
    *,
    workers: int | None = None,
    ranks: Ranks | None = None,
    after_batch: Callable[[int], None] | None = None,
) -> Metrics:
    """Metrics of `network`, which is in evaluation mode and on `device`, over every one of `samples`.

    Each image is counted by one of `ranks`. `after_batch` is told how many images a batch had; it is called equally
    often on all of them.
    """
    sums = Sums()
    ranks = Ranks() if ranks is None else ranks
    workers = device.default_workers() if workers is None else workers
    batches = evaluation_batches(
        samples, preprocessing, batch_size=BATCH_SIZE, workers=workers, rank=ranks.rank, ranks=ranks.count
    )
    most = -(-len(samples) // ranks.count)  # the first has the most images, by one
    for batch, _ in zip_longest(batches, range(0, most, BATCH_SIZE)):
        if batch is not None:
            images = batch.to_input(device.device, preprocessing)
            with device.autocast():
                logits = network(images)
            sums.add(logits, batch.labels.to(device.device))
        if after_batch is not None:
            after_batch(0 if batch is None else len(batch))
    sums.values = sum(ranks.gather(sums.values), torch.zeros_like(sums.values))
    return sums.divide()
