"""From what a user calls a model to the network with its weights and specification."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from inceptionv4.errors import CheckpointError, UsageError
from inceptionv4.imagenet import canonical
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime import storage
from inceptionv4.runtime.files import require_utf8
from inceptionv4.runtime.shelf import bring
from inceptionv4.runtime.storage import is_uri, plain
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.checkpoint import Checkpoint, is_ours, load_checkpoint
from inceptionv4.weights.foreign.assemble import Report
from inceptionv4.weights.foreign.read import read_foreign
from inceptionv4.weights.huggingface import download, find_in_folder, is_on_hub

BEST = Path("checkpoints/best.safetensors")
LAST = Path("checkpoints/last.safetensors")
POINTER = Path("checkpoints/last")
"""What a run in object storage has in its stead: the name of the newest state."""


def find_model(model: str | Path) -> Path:
    """The file of weights that `model` names: itself, a run folder's best, the best of the newest in a folder of runs,
    that of a folder as on the Hugging Face hub, or one on the hub (`hf-hub:OWNER/NAME`), which is fetched, as is one in
    object storage, a file or a run folder.

    Raises:
        UsageError: there is none, or its name is not UTF-8.
        StorageError: it is in object storage, which cannot be reached, or refuses.
    """
    if is_on_hub(str(model)):
        return download(str(model))
    if is_uri(model):
        return bring(_find_object(str(model)))
    path = Path(plain(model))
    require_utf8(path)
    if path.is_file():
        return path
    runs = [path, *sorted((run for run in path.glob("[0-9]*") if run.name.isdigit()), key=lambda run: -int(run.name))]
    for run in runs:
        for name in (BEST, LAST):
            if (run / name).is_file():
                return run / name
    if weights := find_in_folder(path):
        return weights
    if path.is_dir():
        raise UsageError(f"{path} holds no trained model: expected {path / BEST}, which a finished epoch writes")
    raise UsageError(f"no model at {path}; give a run folder such as runs/digits/1, a file of weights, or hf-hub:NAME")


def _find_object(uri: str) -> str:
    """The URI of the file of weights that a URI names: itself, a run folder's best, or that of the newest run."""
    if storage.find(uri) is not None:
        return uri
    uri = uri.rstrip("/")
    names = {object.uri[len(uri) + 1 :] for object in storage.list_objects(uri)}
    numbers = {name.partition("/")[0] for name in names}
    runs = ["", *(f"{number}/" for number in sorted(filter(str.isdigit, numbers), key=int, reverse=True))]
    for run in runs:
        if run + BEST.as_posix() in names:
            return f"{uri}/{run}{BEST.as_posix()}"
        if run + POINTER.as_posix() in names:
            return f"{uri}/{run}{POINTER.parent.as_posix()}/{_read_pointer(f'{uri}/{run}{POINTER.as_posix()}')}"
    raise UsageError(f"no model at {uri}; give a run folder such as s3://bucket/runs/digits/1, or a file of weights")


def _read_pointer(uri: str) -> str:
    """The name of the newest state of a run in object storage.

    Raises:
        CheckpointError: it is none.
    """
    content = storage.read_all(uri)
    name = content.decode(errors="replace").strip()
    if not re.fullmatch(r"step-\d+\.safetensors", name):
        raise CheckpointError(f"{uri} is damaged: it holds {content[:100]!r}, not the name of a state; give one")
    return name


def read_model(model: str | Path) -> tuple[Checkpoint, Report | None]:
    """The weights that `model` names, ours or another project's, and for the latter what became of each array.

    Raises:
        UsageError: there is no such model, or a package that reads it is not installed.
        CheckpointError: it is damaged, or no Inception-v4.
        StorageError: it is in object storage, which cannot be reached, or refuses.
    """
    path = find_model(model)
    try:
        if is_ours(path):
            return load_checkpoint(path), None
        return read_foreign(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(path), str(model))) if is_uri(model) else error from None


def load_model(model: str | Path) -> tuple[InceptionV4, Checkpoint]:
    """The network that `model` names, in evaluation mode on the CPU, and the checkpoint that it was built from.

    Raises:
        UsageError: there is no such model.
        CheckpointError: it is damaged, or does not fit its own specification.
    """
    checkpoint, _ = read_model(model)
    network = build_network(checkpoint.spec)
    try:
        network.load_state_dict(checkpoint.model_weights(), assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{model} does not fit an Inception-v4: {' '.join(str(error).split())}") from None
    return network.eval(), checkpoint


def build_network(spec: ModelSpec) -> InceptionV4:
    """An Inception-v4 for `spec` whose weights are allocated but not drawn."""
    with torch.device("meta"):
        return InceptionV4(len(spec.classes), width=spec.width, architecture=spec.architecture)


def start_from(network: InceptionV4, classes: tuple[str, ...], start: Checkpoint, name: str) -> bool:
    """Copy the weights of `start` into `network`, of the same architecture; the classifier only if `classes` agree.

    Returns whether the classifier was copied. `name` is what the user calls `start`.

    Raises:
        UsageError: it has another width.
    """
    same_classes = canonical(start.spec.classes) == canonical(classes)
    weights = start.model_weights()
    if not same_classes:
        own = network.state_dict()
        weights |= {name: own[name] for name in own if name.startswith("classifier.")}
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise UsageError(
            f"the weights of {name} are for width {start.spec.width:g}; train with --model.width {start.spec.width:g}"
        ) from None
    return same_classes
