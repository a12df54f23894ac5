"""To an Ascend in two steps: an ONNX graph that answers as the model does, and the .om that `atc` makes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from inceptionv4.errors import UnfinishedError, UsageError
from inceptionv4.export.atc import Recipe, find_compiler
from inceptionv4.export.verify import Exporter, ReferenceOutputs
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.inference.backends.ascend import can_run, find_chip
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.exported import write_sidecar
from inceptionv4.runtime.files import write_together

SOC_VERSION = "Ascend310P3"
"""Compiled for where none is named and none is here."""


@dataclass(frozen=True)
class Ascend:
    """The chip to compile for, and whether it normalises pixels (AIPP) or is given floats.

    `soc_version` is "Ascend" and what `npu-smi info` calls the chip; if None, the chip of this machine.
    """

    soc_version: str | None = None
    aipp: bool = True

    def resolve(self) -> str:
        """The chip's name.

        Raises:
            UsageError: it is none.
        """
        name = self.soc_version or find_chip() or SOC_VERSION
        if not re.fullmatch(r"Ascend[0-9A-Za-z][0-9A-Za-z_-]*", name):
            raise UsageError(
                f"--soc-version is Ascend and what `npu-smi info` calls the chip: {SOC_VERSION}, not {name}"
            )
        return name


@dataclass(frozen=True)
class OmExporter(Exporter):
    """A graph, in the folder that the .om is to be in, and what compiles it."""

    recipe: Recipe
    compiler: str

    def save(self, metadata: ExportMetadata, path: Path) -> ExportMetadata:
        """Compile the graph, unless that is done, and write the description of the .om beside it.

        Raises:
            Error: `atc` fails.
        """
        if not path.exists():
            self.recipe.compile(self.compiler, path.parent)
        return write_sidecar(path, metadata)

    def open(self, path: Path) -> Backend:
        """What was compiled, on the Ascend that is here: no processor runs it."""
        return open_backend(path)


def export_for_ascend(
    rewritten: InceptionV4, metadata: ExportMetadata, ascend: Ascend, path: Path, reference_outputs: ReferenceOutputs
) -> ExportMetadata:
    """Export a graph that Ascend's compiler reads, verified by ONNX Runtime; compile it if `metadata` is an om.

    The .om is run, too, if an Ascend of its kind is here. For an onnx, or without `atc`, the graph is kept, with the
    script that compiles it beside it.

    Raises:
        UnfinishedError: there is no `atc` here; the graph is.
        Error: what was made answers differently from the model, or `atc` fails.
        RunError: the files cannot be written.
    """
    from inceptionv4.export.onnx import ASCEND_IR_VERSION, ASCEND_OPSET, OnnxExporter, build_graph

    batch_size = metadata.batch_size or 1
    described = replace(metadata, format="onnx", precision="fp32", input="float32", batch_size=batch_size)
    graph = OnnxExporter(build_graph(rewritten, described, opset=ASCEND_OPSET, ir_version=ASCEND_IR_VERSION))
    recipe = Recipe(
        graph=path.with_suffix(".ascend.onnx").name if metadata.format == "om" else path.name,
        name=path.with_suffix(".om").name,
        metadata=replace(
            described,
            format="om",
            precision="fp16",
            input="uint8" if ascend.aipp else "float32",
            soc_version=ascend.resolve(),
        ),
    )
    if metadata.format == "onnx":
        return _keep_graph(graph, described, recipe, path, reference_outputs)
    compiler = find_compiler()
    if compiler is None:
        _keep_graph(graph, described, recipe, path.with_name(recipe.graph), reference_outputs)
        raise UnfinishedError(
            f"there is no atc on PATH, so that {path.name} was not made. {recipe.graph} was, and answers as the model "
            f"does; `sh {recipe.script}`, where CANN is, makes the .om for {recipe.metadata.soc_version} of it"
        )
    om = OmExporter(recipe, compiler)

    def write(made: Path) -> ExportMetadata:
        graph.write_and_verify(described, made.with_name(recipe.graph), reference_outputs)
        if can_run(recipe.metadata):
            return om.write_and_verify(recipe.metadata, made, reference_outputs)
        return om.save(recipe.metadata, made)

    return write_together(path, write)


def _keep_graph(
    graph: Exporter, described: ExportMetadata, recipe: Recipe, path: Path, reference_outputs: ReferenceOutputs
) -> ExportMetadata:
    def write(made: Path) -> ExportMetadata:
        verified = graph.write_and_verify(described, made, reference_outputs)
        recipe.write(made.parent)
        return verified

    return write_together(path, write)
