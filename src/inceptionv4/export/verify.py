"""Run an exported file in its own runtime on real images, and compare its answers with the model's.

reference_outputs = compute_reference_outputs(network, checkpoint, data)
exporter.write_and_verify(metadata, path, reference_outputs)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from inceptionv4.data.index import DIGITS, read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.data.options import recorded_options
from inceptionv4.data.photographs import load_photographs
from inceptionv4.data.samples import Samples
from inceptionv4.errors import AnswerError, DataError, Error
from inceptionv4.export_metadata import ExportMetadata, Precision, Verification, coarsest
from inceptionv4.inference.agreement import Reference
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import select_device
from inceptionv4.runtime.storage import absolute
from inceptionv4.weights.checkpoint import Checkpoint

IMAGES = 32
"""Number of images that a file is tried on, beside the photographs: evenly spread, or all if there are fewer."""


@dataclass(frozen=True)
class ReferenceOutputs:
    """Images, and what the plain network answers to them."""

    reference: Reference
    source: str
    """Location of the images that are not the package's photographs."""


def compute_reference_outputs(
    network: InceptionV4, checkpoint: Checkpoint, data: str | None = None
) -> ReferenceOutputs:
    """Answers of the plain network in float32, in evaluation mode on the CPU, to at most `IMAGES` real images.

    Those are of `data` if it is given, else of the data that the model was trained on if they can still be read, else
    the package's digits: images like those that the model is for, as far as they can be found, and held-out ones. The
    package's photographs are always among them: digits are grey, and images of one kind are alike.

    Raises:
        DataError: `data` cannot be used, or one of the images cannot be decoded.
        StorageError: it is in object storage, which cannot be reached, or refuses.
        UsageError: its layout needs an extra that is not installed.
        AnswerError: an answer of the network is not finite.
    """
    if data is not None:
        return _reference_outputs(network, checkpoint, data)
    trained_on = checkpoint.trained_on.get("location")
    if trained_on is not None:
        # Nobody asked for them now: whatever is wrong with them, decoding included, is no reason to export nothing.
        try:
            return _reference_outputs(network, checkpoint, trained_on)
        except AnswerError:
            raise
        except (Error, OSError):
            return _reference_outputs(network, checkpoint, DIGITS)
    return _reference_outputs(network, checkpoint, DIGITS)


def _reference_outputs(network: InceptionV4, checkpoint: Checkpoint, data: str) -> ReferenceOutputs:
    options = recorded_options(checkpoint.trained_on, absolute(data))
    samples, preprocessing = read_dataset(data, options=options).val, checkpoint.spec.preprocessing
    if not len(samples):
        raise DataError(
            f"{data} has no held-out images to compare on: two images of a class, or a val folder, would do"
        )
    asked = spread(samples, IMAGES)
    batches = evaluation_batches(asked, preprocessing, batch_size=8, workers=1)
    photographs = load_photographs(preprocessing)
    images = torch.cat([*(batch.images for batch in batches), photographs])
    reference = Reference(network, images, preprocessing, coloured=len(photographs))
    plain = TorchBackend(network, checkpoint.spec, select_device("cpu", "fp32"), mode="eager")
    names = [*map(asked.describe, range(len(asked))), *["a photograph of the package"] * len(photographs)]
    plain.require_finite(reference.logits, names.__getitem__)
    return ReferenceOutputs(reference, samples.source.location)


def spread(samples: Samples, count: int) -> Samples:
    """`count` of the samples, or all if there are fewer, at equal distances, so that all classes are among them."""
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(np.int64))
    return Samples(samples.source, samples.rows[chosen], samples.labels[chosen], samples.classes)


def verify(name: str, backend: Backend, reference_outputs: ReferenceOutputs, precision: Precision) -> Verification:
    """Run a model in its runtime and compare it with the network.

    Raises:
        Error: it answers differently. The caller keeps nothing of it then.
    """
    agreement = reference_outputs.reference.compare(backend.infer(reference_outputs.reference.images), precision)
    every = agreement.images == len(reference_outputs.reference.images)
    found = Verification(
        images=agreement.images,
        source=f"{reference_outputs.source} and photographs" if every else reference_outputs.source,
        largest_difference=agreement.largest_difference,
        top1_agreement=agreement.top1_agreement,
        top5_overlap=agreement.top5_overlap,
        tolerance=agreement.tolerance,
    )
    if agreement.refusal is not None:
        raise Error(
            f"{name}, run by {backend.describe()}, does not answer as the model does: {agreement.refusal} ({found}). "
            "It was not kept; try another precision, or another version of the runtime"
        )
    return found


class Exporter(ABC):
    """A model in another form, ready to be a file."""

    @abstractmethod
    def save(self, metadata: ExportMetadata, path: Path) -> ExportMetadata:
        """Write the file and others beside it if it takes more than one; returns `metadata`, which describes them, with
        their checksum.
        """

    def open(self, path: Path) -> Backend:
        """Open what was saved in its own runtime, on the CPU where it can be."""
        return open_backend(path, device="cpu")

    def write_and_verify(
        self, metadata: ExportMetadata, path: Path, reference_outputs: ReferenceOutputs
    ) -> ExportMetadata:
        """Write the file, run it, and write what it answered into its description, which is returned. That does not
        call it verified if it had to be run in another precision.

        Raises:
            Error: it answers differently from the model. The file is there nevertheless: `path` is to be in a folder
                of `write_together`, which leaves nothing of it then.
        """
        self.save(metadata, path)
        backend = self.open(path)
        # Answers are off by what the file was rounded to, and by what it was computed in: the coarser of the two.
        allowed = coarsest((metadata.precision, backend.precision))
        verification = replace(verify(path.name, backend, reference_outputs, allowed), computed_in=backend.precision)
        return self.save(replace(metadata, verification=verification), path)
