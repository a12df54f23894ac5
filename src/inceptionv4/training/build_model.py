"""Build the network that a training starts from: with random weights, or with those of `model.weights`."""

from __future__ import annotations

from dataclasses import replace

from inceptionv4.config import ModelConfig
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.load import read_model, start_from


def build_model(
    config: ModelConfig, spec: ModelSpec, *, resumes: bool = False
) -> tuple[InceptionV4, ModelSpec, list[str]]:
    """A network for `spec`, drawn from torch's global generator, with the weights of `config.weights` if it names any.

    Weights fetch their architecture with them, which is why the specification is returned, too, and what a user may
    want to know of them. A training that `resumes` has its own in `spec`, and its weights elsewhere.

    Raises:
        UsageError: there are no such weights, or they are of another width.
        CheckpointError: they are damaged, or no Inception-v4.
    """
    start, words = None, []
    if config.weights is not None and not resumes:
        start, _ = read_model(config.weights)
        spec = replace(spec, architecture=start.spec.architecture)
    network = InceptionV4(len(spec.classes), dropout=config.dropout, width=spec.width, architecture=spec.architecture)
    if start is not None:
        kept = start_from(network, spec.classes, start, str(config.weights))
        words.append(
            f"starts from {start.spec.origin or config.weights}, {'with its' if kept else 'with a new'} classifier"
        )
        theirs, ours = start.spec.preprocessing, spec.preprocessing
        if (theirs.mean, theirs.std) != (ours.mean, ours.std):
            words.append(
                f"its weights are for images with --image.mean {list(theirs.mean)} --image.std {list(theirs.std)}; "
                f"this run normalises by {list(ours.mean)} and {list(ours.std)}"
            )
    return network, spec, words
