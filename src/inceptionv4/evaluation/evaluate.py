"""How good a model is on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inceptionv4.config import PrecisionOption, RuntimeOption
from inceptionv4.data.crops import Crops, check_crops, count_views
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import Batch, evaluation_batches
from inceptionv4.data.options import AS_FOUND, ReadOptions, recorded_options
from inceptionv4.data.rules import RULES, rules_of
from inceptionv4.data.samples import Dataset, Samples, relabel
from inceptionv4.errors import AnswerError, ImageError
from inceptionv4.evaluation.metrics import Metrics, Sums
from inceptionv4.export_metadata import Precision
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.classifier import WORKERS, Classifier
from inceptionv4.inference.distributed import require_same_runtime
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.inference.trial import HintedProgress
from inceptionv4.runtime.device import select_device
from inceptionv4.runtime.distributed import Ranks, join_ranks
from inceptionv4.runtime.progress import Progress
from inceptionv4.runtime.storage import absolute


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on which images, and what answered."""

    metrics: Metrics
    images: str
    runtime: str
    """Runtime, device and precision in words; of several processes the first one's."""
    precision: Precision
    """What the model was computed in, by all processes."""


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    tta: Crops | None = None,
    device: str = "auto",
    precision: PrecisionOption | None = None,
    runtime: RuntimeOption | None = None,
    options: ReadOptions = AS_FOUND,
) -> Evaluation:
    """Measure `model` on the labelled images at `data`: those of its val folder, if it has one, else all.

    Where the images are the very ones that the model was trained on, only those held out then are counted. With `tta`,
    an image's probabilities are the mean over several crops of it. PyTorch answers for weights, in fp32, unless another
    `runtime` or `precision` is given (`open_backend`). Under `torchrun` each process takes its share of the images, and
    all return what was measured on all.

    Raises:
        UsageError: no such model or device, or it does not compute so.
        CheckpointError: the model is damaged.
        DataError: the data cannot be used or are not the same for all processes, or one of the images cannot be
            decoded.
        AnswerError: the model's answer for an image is not finite.
        RunError: another process is gone, or computes in another precision.
    """
    backend = open_backend(model, device=device, precision=precision, runtime=runtime)
    samples, images = choose_images(data, backend.spec.classes, backend.trained_on, options)
    with join_ranks(select_device("cpu")) as ranks:  # sums are all that they exchange
        if ranks.count > 1:
            known = f"{samples.exact_fingerprint} {samples.source.version}"
            ranks.require_same(known, f"the images at {data}")
        require_same_runtime(ranks, backend)
        with Progress("evaluating", total=share(samples, ranks)) if ranks.first else nullcontext() as progress:
            after_batch: Callable[[int], None] | None = None
            if progress is not None:
                is_default = precision is None and runtime is None
                after_batch = HintedProgress(progress, backend, ranks.count).advance if is_default else progress.advance
            metrics = evaluate_backend(backend, samples, tta=tta, ranks=ranks, after_batch=after_batch)
    return Evaluation(metrics, images, backend.describe(), backend.precision)


def share(samples: Samples, ranks: Ranks) -> int:
    """Images of the first process, which has the most, by one."""
    return -(-len(samples) // ranks.count)


def choose_images(
    data: str | Path, classes: tuple[str, ...], trained_on: Mapping[str, Any], options: ReadOptions = AS_FOUND
) -> tuple[Samples, str]:
    """The images at `data` that say something about a model of `classes`, labelled by these, and in words which they
    are. `trained_on` is what its checkpoint says of the images that it has seen.
    """
    if options == AS_FOUND:
        options = recorded_options(trained_on, absolute(data))
    dataset = read_dataset(data, trained_on.get("val_fraction", 0.2), options)
    if dataset.has_val:
        samples, words = dataset.val, f"the held-out images of {data}"
    elif _is_trained_on(dataset, trained_on):
        samples, words = dataset.val, f"the images of {data} that were held out from training"
    else:
        samples, words = dataset.all(), f"all images of {data}"
        if absolute(data) != trained_on.get("location"):
            pass
        elif rules_of(trained_on) != RULES:
            words += (
                ", which the model was trained on under other rules of reading, so that it cannot be told which were "
                "held out: it has seen many of these"
            )
        else:
            words += ", which changed since the model was trained there: it has seen many of these"
    return relabel(samples, classes), words


def _is_trained_on(dataset: Dataset, trained_on: Mapping[str, Any]) -> bool:
    """True if these are the very images that a model was trained on, read by the same rules."""
    exact = trained_on.get("exact_fingerprint", ""), dataset.train.exact_fingerprint
    of_one_layout = exact[0].partition(":")[0] == exact[1].partition(":")[0]
    return (
        rules_of(trained_on) == RULES
        and dataset.train.fingerprint == trained_on.get("fingerprint")
        and (exact[0] == exact[1] or not of_one_layout)
    )


def evaluate_backend(
    backend: Backend,
    samples: Samples,
    *,
    tta: Crops | None = None,
    workers: int | None = None,
    ranks: Ranks | None = None,
    after_batch: Callable[[int], None] | None = None,
) -> Metrics:
    """Metrics of a model over every one of `samples`, each of which is counted by one of `ranks`.

    `workers` threads decode ahead, as many as for `predict` if not given. `after_batch` is told how many images a
    batch had; it is called equally often on all ranks.

    Raises:
        UsageError: the model does not see images so that there are crops `tta` of them.
        ImageError: an image cannot be decoded, by whichever rank; all of them raise it.
        AnswerError: the answer for an image is not finite, of whichever rank; all of them raise it.
    """
    failures: list[ImageError | AnswerError] = []
    sums = Sums()
    ranks = Ranks() if ranks is None else ranks
    check_crops(tta, backend.spec.preprocessing)
    views = count_views(tta)
    batch_size = max(1, backend.batch_size // views)
    shared = evaluation_batches(
        samples,
        backend.spec.preprocessing,
        batch_size=batch_size,
        workers=WORKERS if workers is None else workers,
        rank=ranks.rank,
        ranks=ranks.count,
        crops=tta,
    )

    def answered() -> Iterator[Batch]:
        try:
            for batch in shared:
                sums.add(_logits(backend, samples, batch, views), batch.labels)
                yield batch
        except (ImageError, AnswerError) as failure:  # the others are told when they are there too
            failures.append(failure)

    for batch, _ in zip_longest(answered(), range(0, share(samples, ranks), batch_size)):
        if after_batch is not None:
            after_batch(0 if batch is None else len(batch))
    for failure in chain.from_iterable(ranks.gather(failures)):
        raise failure
    sums.values = sum(ranks.gather(sums.values), torch.zeros_like(sums.values))
    return sums.divide()


def _logits(backend: Backend, samples: Samples, batch: Batch, views: int) -> Tensor:
    """Logits; of several views the logarithm of the mean probability, which stands for one as well as any."""

    def name(row: int) -> str:
        return samples.describe(int(batch.indices[row]))

    if views > 1:
        probabilities = Classifier(backend).probabilities(batch.images, views, name)
        return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()
    logits = backend.infer(batch.images)
    backend.require_finite(logits, name)
    return logits
