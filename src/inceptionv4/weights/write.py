"""Write a model in a form that others read, and convert a model from one form to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from inceptionv4.class_names import read_class_names
from inceptionv4.errors import DataError, RunError, UsageError
from inceptionv4.runtime.files import require_utf8, write_text, write_together, write_whole
from inceptionv4.settings import Given, change
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint
from inceptionv4.weights.formats.assemble import Report
from inceptionv4.weights.formats.mindspore import write_mindspore
from inceptionv4.weights.formats.naming import MINDCV, TIMM, NamingScheme, our_convolutions
from inceptionv4.weights.huggingface import WEIGHTS, make_card
from inceptionv4.weights.load import find_model, read_model
from inceptionv4.weights.notes import make_notes, write_notes
from inceptionv4.weights.timm_config import CONFIG, make_config


def renamed(checkpoint: Checkpoint, origin: NamingScheme) -> dict[str, Tensor]:
    """The weights by the names of `origin`, which must compute what we do.

    Raises:
        UsageError: the network is one that the project cannot build.
    """
    spec = checkpoint.spec
    if spec.architecture != origin.architecture or spec.width != 1.0:
        network = "PaddleClas' network" if spec.architecture != origin.architecture else f"width {spec.width:g}"
        raise UsageError(f"{origin.name} has no Inception-v4 of this kind ({network}); write it in our own format")
    theirs = dict(zip(our_convolutions(), origin.convolutions, strict=True))
    norm = origin.norm
    parts = {"weight": norm.gamma, "bias": norm.beta, "running_mean": norm.mean, "running_var": norm.variance}
    named: dict[str, Tensor] = {}
    for name, tensor in checkpoint.model_weights().items():
        if name.startswith("classifier."):
            named[origin.head[name == "classifier.bias"]] = tensor
            continue
        layer, kind, part = name.rsplit(".", 2)
        if kind == "conv":
            named[theirs[layer] + origin.conv] = tensor
        elif part != "num_batches_tracked":
            named[theirs[layer] + origin.norm_of + (parts[part] or "")] = tensor
        elif origin is TIMM:
            named[theirs[layer] + origin.norm_of + ".num_batches_tracked"] = tensor
    return named


def write_ours(checkpoint: Checkpoint, path: Path) -> None:
    """One safetensors file with the specification in it."""
    save_checkpoint(Checkpoint(checkpoint.model_weights(), checkpoint.spec, checkpoint.training), path)


def write_timm(checkpoint: Checkpoint, path: Path) -> None:
    """One safetensors file with timm's names, for `load_state_dict(..., strict=True)`."""
    tensors = {name: tensor.contiguous() for name, tensor in renamed(checkpoint, TIMM).items()}
    metadata = {"format": "pt", **make_notes(checkpoint)}
    write_whole(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, metadata))


def write_mindspore_ckpt(checkpoint: Checkpoint, path: Path) -> None:
    """A `.ckpt` with MindCV's names, for MindSpore's `load_checkpoint`, and our notes on it beside it."""
    arrays = {
        name: np.ascontiguousarray(tensor.to(torch.float32).numpy())
        for name, tensor in renamed(checkpoint, MINDCV).items()
    }

    def write(made: Path) -> None:
        write_mindspore(arrays, made)
        write_notes(made, checkpoint)

    write_together(path, write)


def write_folder(checkpoint: Checkpoint, folder: Path) -> None:
    """A folder as on the Hugging Face hub; config.json comes last, so that a folder with one is whole."""
    renamed(checkpoint, TIMM)  # which fails before anything is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}") from None
    write_timm(checkpoint, folder / WEIGHTS[0])
    write_text(folder / "README.md", make_card(checkpoint.spec, dict(checkpoint.training)))
    write_text(folder / CONFIG, make_config(checkpoint.spec))


FORMATS: dict[str, Callable[[Checkpoint, Path], None]] = {
    "inceptionv4": write_ours,
    "timm": write_timm,
    "mindspore": write_mindspore_ckpt,
    "huggingface": write_folder,
}


def format_of(path: Path) -> str:
    """The format that a file of this name is written in, unless another is asked for.

    Raises:
        UsageError: the name suggests none.
    """
    if path.suffix == ".safetensors":
        return "inceptionv4"
    if path.suffix == ".ckpt":
        return "mindspore"
    if not path.suffix or path.is_dir():
        return "huggingface"
    raise UsageError(
        f"what is {path} to be? .safetensors is our own format (with --to timm, timm's), .ckpt MindSpore's, "
        "a folder Hugging Face's"
    )


def convert(
    source: str, output: Path, form: str, classes: Path | None = None, image: Mapping[str, Given] | None = None
) -> tuple[Checkpoint, Report | None]:
    """Read the weights that `source` names, give them the names in the file `classes`, if any, and the preprocessing in
    `image`, by the keys `image.size` and so on, where it says another than theirs; write them as `form`.

    Returns what was written, and what became of each array of another project's file.

    Raises:
        UsageError: no such weights, or they lie at `output`, or its name is not UTF-8; `classes` does not name them
            all; the form cannot hold the network.
        ConfigError: `image` has an unknown key, or a value that is out of range.
        CheckpointError: the weights are damaged, or no Inception-v4.
        RunError: the output cannot be written.
    """
    require_utf8(output)
    if output.exists():
        path = find_model(source)
        if output.samefile(path.parent if output.is_dir() and path.name in WEIGHTS else path):
            raise UsageError(f"{output} is the source; name another {'folder' if output.is_dir() else 'file'}")
    checkpoint, report = read_model(source)
    if classes is not None:
        checkpoint = replace(checkpoint, spec=replace(checkpoint.spec, classes=_names(classes, checkpoint)))
    if image:
        preprocessing = change(checkpoint.spec.preprocessing, image, "image.")
        checkpoint = replace(checkpoint, spec=replace(checkpoint.spec, preprocessing=preprocessing))
    FORMATS[form](checkpoint, output)
    return checkpoint, report


def _names(file: Path, checkpoint: Checkpoint) -> tuple[str, ...]:
    try:
        names = read_class_names(file.read_bytes(), str(file))
    except OSError as error:
        raise UsageError(f"cannot read the classes in {file}: {error.strerror}") from None
    except DataError as error:
        raise UsageError(str(error)) from None
    if len(names) != len(checkpoint.spec.classes):
        raise UsageError(f"{file} names {len(names)} classes, the weights have {len(checkpoint.spec.classes)}")
    return names
