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
from inceptionv4.export.options import FIXED_BATCH, ExportOptions
from inceptionv4.export.verify import Exporter, compute_reference_outputs
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.network.inference_graph import build_inference_graph
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.files import require_utf8, write_together
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.load import load_model

EXPORTED = (".xml", ".mindir", ".air", ".om")
"""Endings of files that hold a graph alone; an .onnx of floats is read as weights."""


def export_model(model: str, options: ExportOptions) -> ExportMetadata:
    """Write `model` in another form, run the file on real images beside the model, and keep it only if they agree.

    The images are those at `options.validate`, else the model's own data if they can be read, else digits.

    A .om is run where an Ascend of its kind is, AIR nowhere: the metadata of what was not run hold no verification.
    Those of what had to be run in another precision say in which. `ExportMetadata.unverified_reason` has the words for
    both.

    Raises:
        UnfinishedError: there is no `atc` here; what it needs for the .om was written.
        UsageError: no such model, or it is an exported file; the name of the file is not UTF-8; the runtime is not
            installed; the key cannot be read.
        CheckpointError: the model is damaged.
        DataError: the data to calibrate or validate on cannot be used.
        StorageError: these are in object storage, which cannot be reached, or refuses.
        Error: the file answers differently from the model, or int8 costs too much accuracy.
        RunError: the file cannot be written.
    """
    path, key = options.path, None
    require_utf8(path)
    if options.encrypt_key_file is not None:
        from inceptionv4.export.mindspore import read_key

        key = read_key(options.encrypt_key_file)
    ascend = None
    if options.for_ascend:
        ascend = Ascend(options.soc_version, aipp=options.pixels is not False)
        ascend = replace(ascend, soc_version=ascend.resolve())
    network, checkpoint = _load(model)
    metadata = ExportMetadata(
        format=options.format,
        precision=options.computed_in,
        spec=checkpoint.spec,
        version=importlib.metadata.version("inceptionv4"),
        weights=hash_weights(network),
        # For an Ascend, it is the chip that normalises.
        input="uint8" if options.pixels and not options.for_ascend else "float32",
        batch_size=options.batch_size or (1 if options.format in FIXED_BATCH else None),
        trained_on=checkpoint.trained_on,
    )
    graph = build_inference_graph(network)
    if options.format == "air":
        air = _exporter(graph, metadata, key)
        return write_together(path, lambda made: air.save(metadata, made))
    reference_outputs = compute_reference_outputs(network, checkpoint, options.validate or options.calibrate)
    if ascend is not None:
        return export_for_ascend(graph, metadata, ascend, path, reference_outputs)

    def write(made: Path) -> ExportMetadata:
        if options.int8:
            int8 = Int8(str(options.calibrate), options.samples, options.validate, options.max_drop)
            exporter, described = round_model(network, graph, metadata, int8, made)
        else:
            exporter, described = _exporter(graph, metadata, key), metadata
        return exporter.write_and_verify(described, made, reference_outputs)

    return write_together(path, write)


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
            from inceptionv4.export.onnx import OnnxExporter, build_graph

            return OnnxExporter(build_graph(rewritten, metadata))
        case "openvino":
            from inceptionv4.export.onnx import build_graph
            from inceptionv4.export.openvino import OpenVinoExporter, read_graph

            return OpenVinoExporter(read_graph(build_graph(rewritten, metadata)))
        case "mindir":
            from inceptionv4.export.mindspore import MindIrExporter

            return MindIrExporter(rewritten, key)
        case "air":
            from inceptionv4.export.mindspore import AirExporter

            return AirExporter(rewritten)
        case _:
            raise ValueError(f"{metadata.format} is not made here")
