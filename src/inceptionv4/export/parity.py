"""The gate that every export passes: the file, run by its own runtime on real images, answers as the model does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inceptionv4.artefact import Precision, Verification
from inceptionv4.data.index import DIGITS, Samples, read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.errors import DataError, Error
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.weights.checkpoint import Checkpoint

IMAGES = 32
"""That a file is tried on; spread evenly over those there are."""

TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 1.0}
"""Largest difference of a logit that is rounding, as a share of the spread of the model's logits (their largest less
their smallest, over all images), by what the file computes in: 24, 11 and 8 bits of mantissa through 150 layers. What
int8 may cost is a matter of accuracy, for which there is `--max-drop`; the gate then looks at the classes only.
"""
AGREEMENT: dict[Precision, float] = {"fp32": 1.0, "fp16": 1.0, "bf16": 0.9, "int8": 0.75}
"""Share of images whose likeliest class must be the same. Classes whose logits the tolerance cannot tell apart count as
the same.
"""


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


def compare(questions: Questions, logits: Tensor, precision: Precision) -> Verification:
    """How `logits`, float32 `(n, classes)`, answer the questions beside the network."""
    expected = questions.logits
    largest = float((logits - expected).abs().max())
    tolerance = TOLERANCES[precision] * max(float(expected.max() - expected.min()), 1e-3)
    best = logits.argmax(1, keepdim=True)
    same = expected.max(1).values - expected.gather(1, best).squeeze(1) <= (0 if precision == "int8" else 2 * tolerance)
    top = min(5, expected.shape[1])
    ours, theirs = (values.topk(top).indices for values in (expected, logits))
    overlap = (ours[:, :, None] == theirs[:, None, :]).any(2).float().mean()
    return Verification(
        images=len(expected),
        source=questions.source,
        largest_difference=largest,
        top1_agreement=float(same.float().mean()),
        top5_overlap=float(overlap),
        tolerance=tolerance,
    )


def verify(name: str, backend: Backend, questions: Questions, precision: Precision) -> Verification:
    """Run a model in its runtime and compare it with the network.

    Raises:
        Error: it answers differently. The caller keeps nothing of it then.
    """
    logits = backend.infer(questions.images)
    found = compare(questions, logits, precision)
    finite = bool(torch.isfinite(logits).all())
    within = found.largest_difference <= found.tolerance or precision == "int8"
    if not (finite and within and found.top1_agreement >= AGREEMENT[precision]):
        raise Error(
            f"{name}, run by {backend.describe()}, does not answer as the model does: {found}; "
            f"allowed are {found.tolerance:.2g} and {AGREEMENT[precision]:.0%}. It was not kept; "
            "try another precision, or another version of the runtime"
        )
    return found
