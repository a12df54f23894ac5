"""ONNX files: the network's graph, as its readers want it, with a description of the model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from inceptionv4.errors import UsageError
from inceptionv4.export.verify import Exporter
from inceptionv4.export_metadata import NOTE, ExportMetadata
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import NOTE as SPEC_NOTE

try:
    import onnx
    from onnx import helper

    from inceptionv4.network.onnx import IR_VERSION, OPSET, write_graph
except ImportError:
    raise UsageError("ONNX's graphs are written by onnx: pip install 'inceptionv4[onnx]'") from None

ASCEND_OPSET, ASCEND_IR_VERSION = 18, 8
"""The newest that Ascend's compiler (CANN 8) reads."""


def build_graph(
    rewritten: InceptionV4, metadata: ExportMetadata, *, opset: int = OPSET, ir_version: int = IR_VERSION
) -> onnx.ModelProto:
    """The graph of a rewritten network: `images` as `metadata.input` says, to `logits`, float32 `(B, classes)`."""
    preprocessing = metadata.spec.preprocessing
    model = write_graph(
        rewritten,
        preprocessing.size,
        batch_size=metadata.batch_size,
        pixels=(preprocessing.mean, preprocessing.std) if metadata.input == "uint8" else None,
        opset=opset,
        ir_version=ir_version,
    )
    model.producer_version = metadata.version
    return model


def fix_batch(model: onnx.ModelProto, batch_size: int | None) -> onnx.ModelProto:
    """A graph for any number of images, in place, as one for `batch_size`; None leaves it as it is."""
    if batch_size is not None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch_size
        del model.graph.value_info[:]  # shapes in between, of any number: a reader finds them by itself
        onnx.checker.check_model(model)
    return model


@dataclass(frozen=True)
class OnnxExporter(Exporter):
    """A graph that is to be a file."""

    model: onnx.ModelProto

    def save(self, metadata: ExportMetadata, path: Path) -> ExportMetadata:
        """Write one file, with its description in its metadata."""
        del self.model.metadata_props[:]
        graph = self.model.SerializeToString()
        described = replace(metadata, content=hashlib.sha256(graph).hexdigest())
        notes = onnx.ModelProto()
        helper.set_model_props(notes, {NOTE: described.to_json(), SPEC_NOTE: metadata.spec.to_json()})
        path.write_bytes(graph + notes.SerializeToString())  # messages one after the other are one message
        return described
