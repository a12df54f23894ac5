"""All that a training goes on from, and the files that hold it.

    checkpoints/step-00000088.safetensors   the newest states, `checkpoint.keep` of them
    checkpoints/last.safetensors            the newest one again, by a hard link: it takes no room, and is no copy

A state is a model like any other, the averaged weights by their own names, and has more tensors beside them:
`training/network/...` the weights themselves, `training/optimizer/<parameter>/<slot>` what the optimizer remembers.
There is no state of a random generator: order, views and dropout follow from the seed and the step.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inceptionv4.errors import CheckpointError, UnreadableError
from inceptionv4.runtime.files import link_whole
from inceptionv4.training.train_step import TrainStep
from inceptionv4.weights.checkpoint import TRAINING, Checkpoint, save_checkpoint
from inceptionv4.weights.load import LAST

STEP = re.compile(r"step-(\d{8,})\.safetensors")
STATE_FACTS = ("position", "average_steps", "scaler", "overflows", "record", "machines")
"""What a state says of its training and a model does not."""


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
    train_step: TrainStep,
    position: Position,
    keep: int,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a state, make it `last`, and remove all but the newest `keep` of the states up to it.

    Every state that is there has been verified when the run went on, or written since: what is damaged does not count.
    `facts` are what else a state says, `record` and `machines` of `STATE_FACTS`.

    Raises:
        RunError: the disk is full; the states before are as they were.
    """
    tensors = {f"{TRAINING}network/{name}": tensor for name, tensor in train_step.network.state_dict().items()}
    for name, parameter in train_step.network.named_parameters():
        for slot, value in train_step.optimizer.state.get(parameter, {}).items():
            if value is None:  # sgd without momentum remembers nothing
                continue
            tensors[f"{TRAINING}optimizer/{name}/{slot}"] = value
    all_facts = {
        **checkpoint.training,
        "position": asdict(position),
        "average_steps": train_step.ema.steps,
        "scaler": train_step.scaler.state_dict(),
        "overflows": train_step.overflows,
        **(facts or {}),
    }
    path = state_path(run, position.step)
    save_checkpoint(replace(checkpoint, weights={**checkpoint.weights, **tensors}, training=all_facts), path)
    link_whole(path, run / LAST)
    past = [state for state in saved_states(run) if step_of(state) <= position.step]
    for old in past[keep:]:
        with contextlib.suppress(OSError):  # the next save tries it again
            old.unlink()


def state_path(run: Path, step: int) -> Path:
    """The file of the state after `step` steps."""
    return run / LAST.parent / f"step-{step:08}.safetensors"


def step_of(state: Path) -> int:
    """The step that the name of a state's file says."""
    match = STEP.fullmatch(state.name)
    assert match is not None, state
    return int(match[1])


def saved_states(run: Path) -> list[Path]:
    """The states in a run folder, newest first by their names."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        states = (path for path in (run / LAST.parent).iterdir() if STEP.fullmatch(path.name))
        return sorted(states, key=step_of, reverse=True)
    return []


def is_state(checkpoint: Checkpoint) -> bool:
    """Whether a training can go on from this checkpoint; from a model it cannot."""
    return "position" in checkpoint.training


def read_position(checkpoint: Checkpoint) -> Position:
    """How far the training was that wrote this state.

    Raises:
        UnreadableError: another version wrote it, in another form.
    """
    try:
        values: dict[str, Any] = dict(checkpoint.training["position"])
        bad = {int(index): reason for index, reason in values["bad"].items()}
        return Position(**{**values, "best": tuple(values["best"]), "bad": bad})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(f"the state was written by another version: {error!r}") from None


def restore(checkpoint: Checkpoint, train_step: TrainStep) -> None:
    """Load a state into a new `TrainStep`, in its own layout and on its own device.

    Raises:
        CheckpointError: the state is of another network or optimizer.
    """
    tensors = checkpoint.weights
    own = f"{TRAINING}network/"
    try:
        train_step.network.load_state_dict(
            {name[len(own) :]: value for name, value in tensors.items() if name.startswith(own)}
        )
        train_step.ema.network.load_state_dict(checkpoint.model_weights())
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the saved state does not fit these settings: {reason}") from None
    train_step.ema.steps = checkpoint.training["average_steps"]
    train_step.scaler.load_state_dict(checkpoint.training["scaler"])
    train_step.overflows = checkpoint.training["overflows"]
    for name, parameter in train_step.network.named_parameters():
        prefix = f"{TRAINING}optimizer/{name}/"
        slots = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        if slots:
            train_step.optimizer.state[parameter] = {slot: _as(parameter, value) for slot, value in slots.items()}


def _as(parameter: Tensor, value: Tensor) -> Tensor:
    """A slot in the layout of its parameter: fused optimizers walk through both in the order of memory."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)  # a count of steps, which fused optimizers keep beside their parameters
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
