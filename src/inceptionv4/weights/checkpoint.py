"""Our checkpoint: one safetensors file, whose metadata holds the rest as JSON. No pickle, nothing executed.

    tensors     the network's `state_dict`; in a training's states, more whose names begin with "training/"
    metadata    format   "inceptionv4/1"
                spec     ModelSpec
                training config, epoch, step, metrics: whatever the writer knows, for people and for resuming
                digest   SHA-256 over all of the above

The digest makes a flipped bit an error instead of a slightly wrong network: safetensors itself has no checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from inceptionv4.errors import CheckpointError, UnreadableError
from inceptionv4.runtime.files import write_whole
from inceptionv4.spec import ModelSpec
from inceptionv4.strict_json import from_json, to_json

FORMAT = "inceptionv4/1"
MAX_HEADER = 1 << 27
"""Bytes of a safetensors file's header at most, as the format says."""
TRAINING = "training/"
"""What the names of tensors begin with that a training needs and a model does not."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights by their names in the network, what they are for, and how they came to be."""

    weights: Mapping[str, Tensor]
    spec: ModelSpec
    training: Mapping[str, Any] = field(default_factory=dict)

    def model_weights(self) -> dict[str, Tensor]:
        """The tensors that the network has, without those that only a training needs."""
        return {name: tensor for name, tensor in self.weights.items() if not name.startswith(TRAINING)}

    @property
    def trained_on(self) -> Mapping[str, Any]:
        """By what the images are known that the model was trained on; empty if nobody wrote it down."""
        data: Mapping[str, Any] = self.training.get("data", {})
        return data


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write `checkpoint` to `path`, whole or not at all.

    Raises:
        RunError: the folder cannot be written, or the disk is full.
    """
    tensors = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
        for name, tensor in checkpoint.weights.items()
    }
    metadata = {
        "format": FORMAT,
        "spec": checkpoint.spec.to_json(),
        "training": to_json(dict(checkpoint.training)),
    }
    metadata["digest"] = _digest(tensors, metadata)
    write_whole(path, lambda temporary: _write(tensors, metadata, temporary))


def _write(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    try:
        safetensors.torch.save_file(dict(tensors), path, dict(metadata))
    except safetensors.SafetensorError as error:  # which is how it reports a full disk
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise OSError(f"{error}, for {size:,} bytes of tensors") from None


def is_ours(path: Path) -> bool:
    """Whether a file is, or was before it was damaged, a checkpoint of ours."""
    with path.open("rb") as file:
        start = file.read(8)
        header = file.read(min(int.from_bytes(start, "little"), MAX_HEADER))
    return header[:1] == b"{" and f'"{FORMAT}"'.encode() in header


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint of ours.

    Raises:
        CheckpointError: cut short, damaged in any byte, or not one of ours.
        UnreadableError: the system cannot read it, or another version wrote it.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except OSError as error:
        raise UnreadableError(
            f"{path} cannot be read: {error.strerror or error}; try again, or copy it again"
        ) from None
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({error}); use another one of the run's checkpoints, or copy it again"
        ) from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of {FORMAT.partition('/')[0]}")
    digest = metadata.pop("digest", "")
    if digest != _digest(tensors, metadata):
        raise CheckpointError(
            f"{path} is damaged: its contents do not match the checksum they were saved with; "
            "use another one of the run's checkpoints, or copy it again"
        )
    try:
        spec = ModelSpec.from_dict(from_json(metadata["spec"]))
        # Older versions wrote the loss of an epoch without a step as NaN.
        training = dict(json.loads(metadata.get("training", "{}"), parse_constant=lambda _: None))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UnreadableError(f"{path} was written by another version: {error}") from None
    return Checkpoint(tensors, spec, training)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    return digest_tensors(tensors, json.dumps(dict(sorted(metadata.items()))))


def digest_tensors(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of a text and of every tensor with its name, type and shape, in the order of names."""
    sha = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
