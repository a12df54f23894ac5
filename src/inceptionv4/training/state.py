"""All that a training goes on from, and the files that hold it.

    checkpoints/step-00000088.safetensors   the newest states, `checkpoint.keep` of them
    checkpoints/last.safetensors            the newest one again, by a hard link: it takes no room

A state is a model like any other, the averaged weights by their own names, and has more tensors beside them:
`training/network/...` the weights themselves, `training/optimizer/<parameter>/<slot>` what the optimizer remembers.
There is no state of a random generator: order, views and dropout follow from the seed and the step.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inceptionv4.errors import CheckpointError
from inceptionv4.runtime.files import remove_half_written, write_whole
from inceptionv4.training.learner import Learner
from inceptionv4.weights.checkpoint import TRAINING, Checkpoint, load_checkpoint, save_checkpoint
from inceptionv4.weights.load import LAST

STEP = re.compile(r"step-(\d{8})\.safetensors")


@dataclass(frozen=True)
class Position:
    """How far a training is: `epoch` epochs are evaluated, and `batch` batches of the next one are trained on."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: tuple[float, float] = (-1.0, 0.0)
    """Top-1 and negative loss of the best evaluation."""
    best_epoch: int = 0
    bad: dict[int, str] = field(default_factory=dict)
    """Training images that were left out, and why."""


def save_state(
    run: Path,
    checkpoint: Checkpoint,
    learner: Learner,
    position: Position,
    keep: int,
) -> None:
    """Write a state, make it `last`, and remove all but the newest `keep`.

    Raises:
        RunError: the disk is full; the states before are as they were.
    """
    tensors = {f"{TRAINING}network/{name}": tensor for name, tensor in learner.network.state_dict().items()}
    for name, parameter in learner.network.named_parameters():
        for slot, value in learner.optimizer.state.get(parameter, {}).items():
            if value is None:  # sgd without momentum remembers nothing
                continue
            tensors[f"{TRAINING}optimizer/{name}/{slot}"] = value
    facts = {
        **checkpoint.training,
        "position": asdict(position),
        "average_steps": learner.average.steps,
        "scaler": learner.scaler.state_dict(),
        "overflows": learner.overflows,
    }
    path = run / LAST.parent / f"step-{position.step:08}.safetensors"
    save_checkpoint(replace(checkpoint, weights={**checkpoint.weights, **tensors}, training=facts), path)
    write_whole(run / LAST, lambda temporary: _link(path, temporary))
    for old in saved_states(run)[keep:]:
        with contextlib.suppress(OSError):  # the next save tries it again
            old.unlink()


def _link(path: Path, temporary: Path) -> None:
    """The same file under a second name; a copy where the file system has no such thing."""
    temporary.unlink()
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)


def saved_states(run: Path) -> list[Path]:
    """The states in a run folder, newest first."""
    with contextlib.suppress(FileNotFoundError):
        return sorted((path for path in (run / LAST.parent).iterdir() if STEP.fullmatch(path.name)), reverse=True)
    return []


def load_state(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest state of a run that is sound, or None; and what was wrong with newer ones.

    What a killed training left half-written is removed.
    """
    remove_half_written(run, "log.jsonl", "results.csv")
    remove_half_written(run / LAST.parent, "*.safetensors")
    complaints = []
    for path in saved_states(run):
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            complaints.append(str(error))
            continue
        if "position" in checkpoint.training:
            return checkpoint, complaints
    return None, complaints


def read_position(checkpoint: Checkpoint) -> Position:
    """How far the training was that wrote this state."""
    values: dict[str, Any] = dict(checkpoint.training["position"])
    bad = {int(index): reason for index, reason in values["bad"].items()}
    return Position(**{**values, "best": tuple(values["best"]), "bad": bad})


def restore(checkpoint: Checkpoint, learner: Learner) -> None:
    """Put a state into a new learner, in its own layout and on its own device.

    Raises:
        CheckpointError: the state is of another network or optimizer.
    """
    tensors = checkpoint.weights
    own = f"{TRAINING}network/"
    try:
        learner.network.load_state_dict(
            {name[len(own) :]: value for name, value in tensors.items() if name.startswith(own)}
        )
        learner.average.network.load_state_dict(checkpoint.model_weights())
    except RuntimeError as error:
        raise CheckpointError(f"the saved state does not fit these settings: {error}") from None
    learner.average.steps = checkpoint.training["average_steps"]
    learner.scaler.load_state_dict(checkpoint.training["scaler"])
    learner.overflows = checkpoint.training["overflows"]
    for name, parameter in learner.network.named_parameters():
        prefix = f"{TRAINING}optimizer/{name}/"
        slots = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        if slots:
            learner.optimizer.state[parameter] = {slot: _as(parameter, value) for slot, value in slots.items()}


def _as(parameter: Tensor, value: Tensor) -> Tensor:
    """A slot in the layout of its parameter: fused optimizers walk through both in the order of memory."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)  # a count of steps, which fused optimizers keep beside their parameters
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
