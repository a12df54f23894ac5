"""Our notes in files of other projects' formats: the model's specification and how it was trained.

A safetensors file holds them in its metadata. MindSpore's .ckpt has no place for them: they lie beside it, as
NAME.ckpt.json, with the SHA-256 of the .ckpt, so that they are never taken for those of another file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inceptionv4.errors import CheckpointError
from inceptionv4.runtime.exported import sidecar
from inceptionv4.spec import NOTE, ModelSpec
from inceptionv4.strict_json import from_json, to_json
from inceptionv4.weights.checkpoint import Checkpoint

TRAINING_NOTE = "inceptionv4.training"
"""What is known of the training, as JSON: its data, settings and metrics."""
SHA256 = "sha256"


def make_notes(checkpoint: Checkpoint) -> dict[str, str]:
    """Specification and training, each as JSON, by the names of the notes."""
    return {NOTE: checkpoint.spec.to_json(), TRAINING_NOTE: to_json(dict(checkpoint.training))}


def write_notes(path: Path, checkpoint: Checkpoint) -> None:
    """Write the notes of the file at `path` beside it, as NAME.json.

    Raises:
        OSError: the file cannot be read, or the notes cannot be written.
    """
    values = {name: from_json(note) for name, note in make_notes(checkpoint).items()}
    text = to_json({**values, SHA256: _hash(path)}, indent=2)
    sidecar(path).write_text(text + "\n", encoding="utf-8")


def read_notes(path: Path) -> dict[str, str]:
    """The notes beside the file at `path`; empty if there are none, or the file beside it is another program's.

    Raises:
        CheckpointError: they are damaged, or those of another file.
    """
    beside = sidecar(path)
    try:
        values = from_json(beside.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{beside} cannot be read: {error}; copy it again, or remove it") from None
    if not isinstance(values, dict) or NOTE not in values:
        return {}
    if values.get(SHA256) != _hash(path):
        raise CheckpointError(
            f"{beside} describes another {path.name}, or one of the two is damaged: their SHA-256 differ; "
            "copy both again, or convert the model again"
        )
    return {name: to_json(values[name]) for name in (NOTE, TRAINING_NOTE) if name in values}


def read_spec(path: Path, notes: Mapping[str, str]) -> ModelSpec | None:
    """The specification among the notes of the file at `path`; None if there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    if NOTE not in notes:
        return None
    try:
        return ModelSpec.from_dict(from_json(notes[NOTE]))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its note {NOTE} cannot be read: {error}") from None


def read_training(path: Path, notes: Mapping[str, str]) -> dict[str, Any]:
    """What the notes of the file at `path` say of the training; empty if they say nothing.

    Raises:
        CheckpointError: they are damaged.
    """
    try:
        return dict(from_json(notes.get(TRAINING_NOTE, "{}")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its note {TRAINING_NOTE} cannot be read: {error}") from None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
