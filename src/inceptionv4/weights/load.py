"""From what a user calls a model to the network with its weights and specification."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from inceptionv4.errors import CheckpointError, UsageError
from inceptionv4.imagenet import canonical
from inceptionv4.network.layers import InceptionV4
from inceptionv4.printable import note
from inceptionv4.runtime import storage
from inceptionv4.runtime.exported import is_exported_onnx
from inceptionv4.runtime.files import require_utf8
from inceptionv4.runtime.object_cache import fetch, fetch_with
from inceptionv4.runtime.storage import is_uri, plain
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.checkpoint import Checkpoint, is_ours, load_checkpoint
from inceptionv4.weights.formats.assemble import DROPPED, Report
from inceptionv4.weights.formats.read import read_foreign
from inceptionv4.weights.huggingface import WEIGHTS, download, find_in_folder, is_on_hub
from inceptionv4.weights.timm_config import CONFIG

BEST = Path("checkpoints/best.safetensors")
LAST = Path("checkpoints/last.safetensors")
POINTER = Path("checkpoints/last")
"""What a run in object storage has in its stead: the name of the newest state."""


def find_model(model: str | Path) -> Path:
    """The file of weights that `model` names: itself, a run folder's best, the best of the newest in a folder of runs,
    that of a folder as on the Hugging Face hub, or one on the hub (`hf-hub:OWNER/NAME`), which is fetched, as is one in
    object storage, a file or a run folder, with what describes it beside it.

    Where the newest of several runs has no checkpoint yet, a line on standard error says which one is taken.

    Raises:
        UsageError: there is none, or its name is not UTF-8.
        StorageError: it is in object storage, which cannot be reached, or refuses.
    """
    if is_on_hub(str(model)):
        return download(str(model))
    if is_uri(model):
        uri = _find_object(str(model))
        return fetch_with(uri, _names_beside(uri))
    path = Path(plain(model))
    require_utf8(path)
    if path.is_file():
        return path
    numbered = sorted((run for run in path.glob("[0-9]*") if run.name.isdigit()), key=lambda run: -int(run.name))
    for folder in (path, *numbered):
        for weights in (BEST, LAST):
            if (folder / weights).is_file():
                _say_which(folder, numbered)
                return folder / weights
    if found := find_in_folder(path):
        return found
    if path.is_dir():
        raise UsageError(f"{path} holds no trained model: expected {path / BEST}, which a finished epoch writes")
    raise UsageError(f"no model at {path}; give a run folder such as runs/digits/1, a file of weights, or hf-hub:NAME")


def _find_object(uri: str) -> str:
    """The URI of the file of weights that a URI names: itself, a run folder's best, or that of the newest run."""
    if storage.find(uri) is not None:
        return uri
    uri = uri.rstrip("/")
    names = {object.uri for object in storage.list_objects(uri)}
    numbers = {name[len(uri) + 1 :].partition("/")[0] for name in names}
    numbered = [f"{uri}/{number}" for number in sorted(filter(str.isdigit, numbers), key=int, reverse=True)]
    for run in (uri, *numbered):
        pointer = f"{run}/{POINTER.as_posix()}"
        if (best := f"{run}/{BEST.as_posix()}") in names:
            _say_which(run, numbered)
            return best
        if pointer in names:
            _say_which(run, numbered)
            return f"{pointer.rpartition('/')[0]}/{_read_pointer(pointer)}"
    if f"{uri}/{CONFIG}" in names:
        for weights in WEIGHTS:
            if f"{uri}/{weights}" in names:
                return f"{uri}/{weights}"
    raise UsageError(f"no model at {uri}; give a run folder such as s3://bucket/runs/digits/1, or a file of weights")


def _names_beside(uri: str) -> list[str]:
    """What objects beside one are called that are read with it. Checkpoints of ours and ONNX files that we exported
    need none, so that the right to read one object is enough.
    """
    name = uri.rpartition("/")[2]
    stem, _, suffix = name.rpartition(".")
    match suffix.lower():
        case "xml":
            return [f"{stem}.bin"]
        case "mindir" | "om" | "air":
            return [f"{name}.json"]
        case "onnx":
            return [] if is_exported_onnx(fetch(uri)) else [CONFIG]
    return [] if is_ours(fetch(uri)) else [CONFIG, f"{name}.json"]


def _say_which(run: str | Path, numbered: Sequence[str | Path]) -> None:
    """Say on standard error if `run` answers though newer ones of `numbered`, the newest first, have no checkpoint."""
    newer = [str(other) for other in numbered[: numbered.index(run)]] if run in numbered else []
    if newer:
        have = "have" if len(newer) > 1 else "has"
        note(f"{', '.join(newer)} {have} no checkpoint yet: taking {run}")


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
        raise CheckpointError(_with_uris(str(error), path, str(model))) if is_uri(model) else error from None


def _with_uris(words: str, path: Path, model: str) -> str:
    """An error about what was brought of the URI `model`, with its URI and those of what lies beside it for paths."""
    beside = model.rstrip("/").removesuffix(f"/{path.name}")
    return words.replace(str(path), model).replace(str(path.parent), beside)


def load_model(model: str | Path) -> tuple[InceptionV4, Checkpoint]:
    """The network that `model` names, in evaluation mode on the CPU, and the checkpoint that it was built from.

    Where the file does not say its own preprocessing, a line on standard error says which is assumed.

    Raises:
        UsageError: there is no such model.
        CheckpointError: it is damaged, or does not fit its own specification.
    """
    checkpoint, report = read_model(model)
    if report is not None and report.assumed:
        dropped = f" {DROPPED[0].upper()}{DROPPED[1:]}." if DROPPED in report.folded else ""
        note(
            f"{model}: assumed is {report.assumed}: {checkpoint.spec.preprocessing.describe()}.{dropped} "
            "`inceptionv4 convert` writes a model that says its own (--image.size and so on, --classes)"
        )
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
