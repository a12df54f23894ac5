"""OpenVINO's intermediate representation: an .xml file with its weights in a .bin beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from inceptionv4.errors import UsageError
from inceptionv4.export.verify import Exporter
from inceptionv4.export_metadata import NOTE, ExportMetadata
from inceptionv4.inference.backends.openvino import core
from inceptionv4.runtime.exported import hash_content


def read_graph(model: onnx.ModelProto) -> Any:
    """An ONNX graph as OpenVINO's.

    Raises:
        UsageError: openvino is not installed.
    """
    try:
        import openvino  # noqa: F401 - a word about it, before a word about the graph
    except ImportError:
        raise UsageError("OpenVINO's files are written by openvino: pip install 'inceptionv4[openvino]'") from None
    return core().read_model(model.SerializeToString())


def fix_batch(graph: Any, batch_size: int | None) -> Any:
    """A graph for any number of images, in place, as one for `batch_size`; None leaves it as it is."""
    if batch_size is not None:
        _, *image = graph.input(0).get_partial_shape()
        graph.reshape({0: [batch_size, *image]})
    return graph


@dataclass(frozen=True)
class OpenVinoExporter(Exporter):
    """A graph of OpenVINO's that is to be a pair of files."""

    graph: Any

    def save(self, metadata: ExportMetadata, path: Path) -> ExportMetadata:
        """Write the .xml and the .bin, the description within; weights in 16 bits where it is to compute in 16.

        They are written twice: the first time to know their checksum.
        """
        self._write(metadata, path)
        described = replace(metadata, content=hash_content(path))
        self._write(described, path)
        return described

    def _write(self, metadata: ExportMetadata, path: Path) -> None:
        import openvino

        self.graph.set_rt_info(metadata.to_json(), [NOTE])
        try:
            openvino.save_model(self.graph, path, compress_to_fp16=metadata.precision in ("fp16", "bf16"))
        except RuntimeError as error:  # which is how it reports a full disk
            raise OSError(" ".join(str(error).split())[-200:]) from None
