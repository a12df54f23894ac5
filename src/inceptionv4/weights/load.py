"""From what a user calls a model to the network with its weights and specification."""

from __future__ import annotations

from pathlib import Path

import torch

from inceptionv4.errors import CheckpointError, UsageError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.checkpoint import Checkpoint, load_checkpoint

BEST = Path("checkpoints/best.safetensors")
LAST = Path("checkpoints/last.safetensors")


def find_checkpoint(model: str | Path) -> Path:
    """The checkpoint that `model` names: a file, a run folder (its best), or a folder of runs (its newest's best).

    Raises:
        UsageError: there is none.
    """
    path = Path(model)
    if path.is_file():
        return path
    runs = [path, *sorted((run for run in path.glob("[0-9]*") if run.name.isdigit()), key=lambda run: -int(run.name))]
    for run in runs:
        for name in (BEST, LAST):
            if (run / name).is_file():
                return run / name
    if path.is_dir():
        raise UsageError(f"{path} holds no trained model: expected {path / BEST}, which a finished epoch writes")
    raise UsageError(f"no model at {path}; give a run folder such as runs/digits/1, or a checkpoint file")


def load_model(model: str | Path) -> tuple[InceptionV4, Checkpoint]:
    """The network that `model` names, in evaluation mode on the CPU, and the checkpoint that it was built from.

    Raises:
        UsageError: there is no such model.
        CheckpointError: it is damaged, or does not fit its own specification.
    """
    path = find_checkpoint(model)
    checkpoint = load_checkpoint(path)
    network = build_network(checkpoint.spec)
    try:
        network.load_state_dict(checkpoint.model_weights(), assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit an Inception-v4: {error}") from None
    return network.eval(), checkpoint


def build_network(spec: ModelSpec) -> InceptionV4:
    """An Inception-v4 for `spec` whose weights are allocated but not drawn."""
    with torch.device("meta"):
        return InceptionV4(len(spec.classes), width=spec.width)


def start_from(network: InceptionV4, classes: tuple[str, ...], model: str) -> bool:
    """Copy the weights that `model` names into `network`, which keeps its own classifier unless `classes` are the same.

    Returns whether the classifier was copied.

    Raises:
        UsageError: there is no such model, or it has another width.
        CheckpointError: it is damaged.
    """
    checkpoint = load_checkpoint(find_checkpoint(model))
    same_classes = checkpoint.spec.classes == classes
    weights = checkpoint.model_weights()
    if not same_classes:
        own = network.state_dict()
        weights |= {name: own[name] for name in own if name.startswith("classifier.")}
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise UsageError(
            f"the weights of {model} are for width {checkpoint.spec.width:g}; "
            f"train with --model.width {checkpoint.spec.width:g}"
        ) from None
    return same_classes
