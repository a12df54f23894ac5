"""A network as other Python code wants it: one call, a torch module, and with it what its answers mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from inceptionv4.errors import CheckpointError, UsageError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.load import read_model, start_from


class SpecifiedInceptionV4(InceptionV4):
    """An `InceptionV4` that knows the classes of its logits and the preprocessing of its images, in `spec`."""

    def __init__(self, spec: ModelSpec, *, dropout: float = 0.2) -> None:
        super().__init__(len(spec.classes), dropout=dropout, width=spec.width, architecture=spec.architecture)
        self.spec = spec


def create_model(
    weights: str | Path | None = None,
    *,
    num_classes: int | None = None,
    dropout: float = 0.2,
    width: float | None = None,
) -> SpecifiedInceptionV4:
    """An Inception-v4 on the CPU, in evaluation mode; `.train()` makes it learn.

    >>> model = create_model("hf-hub:timm/inception_v4.tf_in1k", num_classes=3)
    >>> model.spec.preprocessing.describe()

    Args:
        weights: any model that the command line takes: a run folder, a file of weights of this or another project, a
            folder as on the Hugging Face hub, `hf-hub:OWNER/NAME`. None draws them from torch's global generator.
        num_classes: outputs of the classifier. Where the weights have another number, or None is given without
            weights, the classifier is a new one, and the classes are called by their numbers; 1000 without weights.
        dropout: probability of dropping a pooled feature in training.
        width: factor on every convolution's channels; that of the weights, else 1.

    Raises:
        UsageError: there are no such weights, they are of another width, or an argument is out of range.
        CheckpointError: the weights are damaged, or of no Inception-v4.
    """
    start = None if weights is None else read_model(weights)[0]
    spec = ModelSpec(classes=_numbers(1000)) if start is None else start.spec
    if num_classes is not None and num_classes != len(spec.classes):
        spec = replace(spec, classes=_numbers(num_classes))
    if width is not None:
        spec = replace(spec, width=width)
    try:
        model = SpecifiedInceptionV4(spec, dropout=dropout)
    except ValueError as error:
        raise UsageError(f"create_model: {error}") from None
    if start is not None:
        if spec.width != start.spec.width:
            raise UsageError(f"the weights of {weights} are for width {start.spec.width:g}, not {spec.width:g}")
        try:
            start_from(model, spec.classes, start, str(weights))
        except UsageError:
            raise CheckpointError(f"{weights} does not fit its own specification; save or copy it again") from None
    model.eval()
    return model


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))
