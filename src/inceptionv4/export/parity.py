"""The gate that every export passes: the file, run by its own runtime on real images, answers as the model does."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from inceptionv4.artefact import Precision, Verification
from inceptionv4.data.index import DIGITS, Samples, read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.errors import DataError, Error
from inceptionv4.inference.agreement import AGREEMENT, agrees, compare
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.weights.checkpoint import Checkpoint

IMAGES = 32
"""That a file is tried on; spread evenly over those there are."""


@dataclass(frozen=True)
class Questions:
    """Images, uint8 `(n, 3, size, size)`, and the logits float32 `(n, classes)` that the plain network gives them."""

    images: Tensor
    logits: Tensor
    source: str


@torch.inference_mode()
def ask(network: InceptionV4, checkpoint: Checkpoint, data: str | None = None) -> Questions:
    """Answers of the plain network in float32, in evaluation mode on the CPU, to `IMAGES` real images.

    Those are of `data` if it is given, else of the data that the model was trained on if they are still there, else the
    package's digits.

    Raises:
        DataError: `data` cannot be used.
    """
    samples = find_images(checkpoint, data)
    batches = list(evaluation_batches(spread(samples, IMAGES), checkpoint.spec.preprocessing, batch_size=8, workers=1))
    logits = [network(batch.to_input(torch.device("cpu"), checkpoint.spec.preprocessing)) for batch in batches]
    return Questions(torch.cat([batch.images for batch in batches]), torch.cat(logits), samples.source.location)


def find_images(checkpoint: Checkpoint, data: str | None) -> Samples:
    """Images like those that the model is for, as far as they can be found: held-out ones."""
    if data is not None:
        return read_dataset(data).val
    for place in (checkpoint.trained_on.get("location"), DIGITS):
        try:
            if place is not None:
                return read_dataset(place).val
        except DataError:
            continue
    raise AssertionError("the digits are part of the package")


def spread(samples: Samples, count: int) -> Samples:
    """`count` of the samples, or all if there are fewer, at equal distances, so that all classes are among them."""
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(np.int64))
    return Samples(samples.source, samples.rows[chosen], samples.labels[chosen], samples.classes)


def verify(name: str, backend: Backend, questions: Questions, precision: Precision) -> Verification:
    """Run a model in its runtime and compare it with the network.

    Raises:
        Error: it answers differently. The caller keeps nothing of it then.
    """
    agreement = compare(questions.logits, backend.infer(questions.images), precision)
    found = Verification(images=len(questions.images), source=questions.source, **asdict(agreement))
    if not agrees(agreement, precision):
        raise Error(
            f"{name}, run by {backend.describe()}, does not answer as the model does: {found}; "
            f"allowed are {found.tolerance:.2g} and {AGREEMENT[precision]:.0%}. It was not kept; "
            "try another precision, or another version of the runtime"
        )
    return found
