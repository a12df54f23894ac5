"""From a model to a file for another runtime, which is kept only if it answers as the model does."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import replace
from pathlib import Path

import torch

from inceptionv4.errors import CheckpointError, UsageError
from inceptionv4.export.ascend import Ascend, export_for_ascend
from inceptionv4.export.int8 import Int8, round_model
from inceptionv4.export.verify import Exporter, compute_reference_outputs
from inceptionv4.export_metadata import ExportMetadata, Format, Precision
from inceptionv4.network.inference_graph import build_inference_graph
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.files import require_utf8, write_together
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.load import load_model

EXPORTED = (".xml", ".mindir", ".air", ".om")
"""Endings of files that hold a graph alone; an .onnx of floats is read as weights."""


def export_model(
    model: str,
    form: Format,
    path: Path,
    *,
    precision: Precision | None = None,
    pixels: bool = False,
    batch_size: int | None = None,
    int8: Int8 | None = None,
    images: str | None = None,
    key: bytes | None = None,
    ascend: Ascend | None = None,
) -> ExportMetadata:
    """Write `model` to `path` as `form`, and run it there on real images beside the model, or keep nothing.

    `precision` is fp32 if not given, fp16 for a .om. With `pixels` the graph takes uint8 and normalises by itself.
    `batch_size` fixes the number of images at once. `images` is a place of images to compare on; if not given, the
    model's own data if they can be read, else digits. `key` encrypts a MINDIR. With `ascend`, an ONNX file is one that
    Ascend's compiler reads, with the means to compile it beside it.

    A .om is run where an Ascend of its kind is, AIR nowhere: the description of what was not run holds no verification.
    That of what had to be run in another precision says in which. `ExportMetadata.unverified_reason` has the words for
    both.

    Raises:
        UnfinishedError: there is no `atc` here; what it needs for the .om was written.
        UsageError: no such model, or it is an exported file; the name of `path` is not UTF-8; the runtime is not
            installed; the form has no such precision; int8 for an Ascend.
        CheckpointError: the model is damaged.
        DataError: the data for int8 or at `images` cannot be used.
        StorageError: these are in object storage, which cannot be reached, or refuses.
        Error: the file answers differently from the model, or int8 costs too much accuracy.
        RunError: the file cannot be written.
    """
    require_utf8(path)
    if form == "om":
        ascend = ascend or Ascend()
    if ascend is not None:
        if int8 is not None:
            raise UsageError("--int8 is not for --profile ascend: Ascend's compiler reads no such graph")
        ascend = replace(ascend, soc_version=ascend.resolve())
    network, checkpoint = _load(model)
    metadata = ExportMetadata(
        format=form,
        precision="int8" if int8 is not None else precision or ("fp16" if form == "om" else "fp32"),
        spec=checkpoint.spec,
        version=importlib.metadata.version("inceptionv4"),
        weights=hash_weights(network),
        input="uint8" if pixels else "float32",
        batch_size=batch_size,
        trained_on=checkpoint.trained_on,
    )
    check_precision(metadata)
    rewritten = build_inference_graph(network)
    if form == "air":
        air = _exporter(rewritten, metadata, key)
        return write_together(path, lambda made: air.save(metadata, made))
    reference_outputs = compute_reference_outputs(
        network, checkpoint, images or (int8.validate or int8.calibrate if int8 else None)
    )
    if ascend is not None:
        return export_for_ascend(rewritten, metadata, ascend, path, reference_outputs)

    def write(made: Path) -> ExportMetadata:
        if int8 is None:
            exporter, described = _exporter(rewritten, metadata, key), metadata
        else:
            exporter, described = round_model(network, rewritten, metadata, int8, made)
        return exporter.write_and_verify(described, made, reference_outputs)

    return write_together(path, write)


def check_precision(metadata: ExportMetadata) -> None:
    """Raise UsageError if the form has no such precision."""
    known: dict[Format, tuple[Precision, ...]] = {
        "onnx": ("fp32", "int8"),
        "openvino": ("fp32", "bf16", "fp16", "int8"),
        "om": ("fp16",),
    }
    possible = known.get(metadata.format, ("fp32",))
    if metadata.precision not in possible:
        named = ", ".join("int8 (--int8)" if one == "int8" else one for one in possible)
        raise UsageError(f"{metadata.format} is written in {named}, not in {metadata.precision}")


def hash_weights(network: InceptionV4) -> str:
    """SHA-256 of all that is learnt, in the order of the network."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load(model: str) -> tuple[InceptionV4, Checkpoint]:
    try:
        return load_model(model)
    except CheckpointError:
        if Path(model).suffix not in EXPORTED:
            raise
        raise UsageError(
            f"{model} is an exported file, which is run and not exported from; give the weights that it was made of: a "
            "run folder, or a file such as best.safetensors"
        ) from None


def _exporter(rewritten: InceptionV4, metadata: ExportMetadata, key: bytes | None) -> Exporter:
    """The network in its form, in floating point."""
    match metadata.format:
        case "onnx":
            from inceptionv4.export.onnx import OnnxDraft, build_graph

            return OnnxDraft(build_graph(rewritten, metadata))
        case "openvino":
            from inceptionv4.export.onnx import build_graph
            from inceptionv4.export.openvino import OpenVinoDraft, read_graph

            return OpenVinoDraft(read_graph(build_graph(rewritten, metadata)))
        case "mindir":
            from inceptionv4.export.mindspore import MindIrDraft

            return MindIrDraft(rewritten, key)
        case "air":
            from inceptionv4.export.mindspore import AirDraft

            return AirDraft(rewritten)
        case _:
            raise ValueError(f"{metadata.format} is not made here")
