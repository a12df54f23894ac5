"""From a model to a file for another runtime, which is kept only if it answers as the model does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from inceptionv4.artefact import Artefact, Calibration, Format, Input, Precision, sidecar
from inceptionv4.data.transforms import normalize
from inceptionv4.errors import Error, UnfinishedError, UsageError
from inceptionv4.evaluation.evaluate import choose_images, evaluate_backend
from inceptionv4.export import parity, quantize
from inceptionv4.export.ascend import Ascend, Recipe, find_compiler
from inceptionv4.inference.backends.backend import Backend, GraphBackend
from inceptionv4.inference.backends.pyacl import find_chip
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.network.rewrites import rewrite
from inceptionv4.runtime.device import select_device
from inceptionv4.runtime.files import write_together
from inceptionv4.runtime.progress import Progress
from inceptionv4.spec import Preprocessing
from inceptionv4.weights.load import load_model

FLOAT_LAYERS = (0, 8, 16, 32, 64)
"""Convolutions, of 149, that stay in float in one attempt at int8 after another."""


class Draft(Protocol):
    """A model in another form, ready to be a file."""

    def save(self, artefact: Artefact, path: Path) -> None:
        """Write the file, and others beside it if it takes more than one."""


@dataclass(frozen=True)
class Int8:
    """How to round to 8 bits: ranges from `samples` training images at `calibrate`; accuracy measured on all images
    held out at `validate` (`calibrate`, if not given), which may fall by `max_drop`, in points.
    """

    calibrate: str
    samples: int = 300
    validate: str | None = None
    max_drop: float = 0.3


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
) -> Artefact:
    """Write `model` to `path` as `form`, and run it there on real images beside the model, or keep nothing.

    `precision` is fp32 if not given, fp16 for a .om. With `pixels` the graph takes uint8 and normalises by itself.
    `batch_size` fixes the number of images at once. `images` is a place of images to compare on; if not given, the
    model's own data, else digits. `key` encrypts a MINDIR. With `ascend`, an ONNX file is one that Ascend's compiler
    reads, with the means to compile it beside it.

    A .om is run where an Ascend of its kind is, AIR nowhere: the description of what was not run holds no verification.

    Raises:
        UnfinishedError: there is no `atc` here; what it needs for the .om was written.
        UsageError: no such model, the runtime is not installed, or the form has no such precision.
        CheckpointError: the model is damaged.
        DataError: the data for int8 or for the comparison cannot be used.
        Error: the file answers differently from the model, or int8 costs too much accuracy.
        RunError: the file cannot be written.
    """
    if ascend is None and form == "om":
        ascend = Ascend()
    soc_version = None if ascend is None else ascend.resolve()
    network, checkpoint = load_model(model)
    artefact = Artefact(
        format=form,
        precision="int8" if int8 is not None else precision or ("fp16" if form == "om" else "fp32"),
        spec=checkpoint.spec,
        version=metadata.version("inceptionv4"),
        weights=hash_weights(network),
        input="uint8" if pixels else "float32",
        batch_size=batch_size,
        trained_on=checkpoint.trained_on,
    )
    check_precision(artefact)
    recipe = None
    if ascend is not None:
        om = replace(
            artefact,
            format="om",
            precision="fp16",
            input="uint8" if ascend.aipp else "float32",
            batch_size=batch_size or 1,
            soc_version=soc_version,
        )
        artefact = replace(artefact, format="onnx", precision="fp32", batch_size=om.batch_size)
        graph = path.with_suffix(".ascend.onnx") if form == "om" else path
        recipe = Recipe(graph.name, path.with_suffix(".om").name, om)
    exporter = _Exporter(network, artefact, path, key, recipe)
    if form == "air":
        return exporter.keep_unverified()
    questions = parity.ask(network, checkpoint, images or (int8.validate or int8.calibrate if int8 else None))
    return exporter.keep_compiled(questions) if form == "om" else exporter.keep_verified(questions, int8)


def check_precision(artefact: Artefact) -> None:
    """Raise UsageError if the form has no such precision."""
    known: dict[Format, tuple[Precision, ...]] = {
        "onnx": ("fp32", "int8"),
        "openvino": ("fp32", "bf16", "fp16", "int8"),
        "om": ("fp16",),
    }
    possible = known.get(artefact.format, ("fp32",))
    if artefact.precision not in possible:
        raise UsageError(f"{artefact.format} is written in {', '.join(possible)}, not in {artefact.precision}")


def hash_weights(network: InceptionV4) -> str:
    """SHA-256 of all that is learnt, in the order of the network."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Exporter:
    """One export: the model, what is to be made of it, and where.

    With a recipe, the artefact is the ONNX graph that it starts from.
    """

    def __init__(
        self, network: InceptionV4, artefact: Artefact, path: Path, key: bytes | None, recipe: Recipe | None
    ) -> None:
        self.network, self.artefact, self.path, self.key, self.recipe = network, artefact, path, key, recipe
        self.rewritten = rewrite(network)

    def keep_verified(self, questions: parity.Questions, int8: Int8 | None) -> Artefact:
        """Make the file in a folder of its own, run it there, and move it to its place if it is right."""
        kept = self.artefact

        def write(path: Path) -> None:
            nonlocal kept
            draft, kept, backend = self._draft_int8(path, int8) if int8 is not None else self._draft(path)
            verification = parity.verify(self.path.name, backend, questions, kept.precision)
            kept = replace(kept, verification=verification)
            del backend  # which may hold the file open
            draft.save(kept, path)
            if self.recipe is not None:
                self.recipe.write(path.parent)

        write_together(self.path, write)
        return kept

    def keep_unverified(self) -> Artefact:
        """Make the file, which no runtime of ours reads."""
        draft = self._float_draft()
        write_together(self.path, lambda path: draft.save(self.artefact, path))
        return self.artefact

    def keep_compiled(self, questions: parity.Questions) -> Artefact:
        """Make the ONNX graph and run it in ONNX Runtime; compile it, if `atc` is here; and run that, if an Ascend of
        its kind is here. Without `atc` the graph is kept, with the means to compile it.
        """
        recipe, compiler = self.recipe, find_compiler()
        assert recipe is not None
        kept = recipe.artefact

        def write(path: Path) -> None:
            nonlocal kept
            graph = path.with_name(recipe.graph)
            draft, artefact, backend = self._draft(graph)
            verification = parity.verify(graph.name, backend, questions, artefact.precision)
            del backend
            draft.save(replace(artefact, verification=verification), graph)
            if compiler is None:
                recipe.write(path.parent)
                return
            recipe.compile(compiler, path.parent)
            sidecar(path).write_text(kept.to_json() + "\n", encoding="utf-8")
            if find_chip() == kept.soc_version:
                verification = parity.verify(path.name, self._open(path), questions, kept.precision)
                kept = replace(kept, verification=verification)
                sidecar(path).write_text(kept.to_json() + "\n", encoding="utf-8")

        write_together(self.path, write)
        if compiler is None:
            raise UnfinishedError(
                f"there is no atc on PATH, so that {self.path.name} was not made. {recipe.graph} was, and answers as "
                f"the model does; `sh {recipe.script}`, where CANN is, makes the .om for {kept.soc_version} of it"
            )
        return kept

    def _draft(self, path: Path) -> tuple[Draft, Artefact, Backend]:
        draft = self._float_draft()
        draft.save(self.artefact, path)
        return draft, self.artefact, self._open(path)

    def _float_draft(self) -> Draft:
        match self.artefact.format:
            case "onnx":
                from inceptionv4.export.onnx import ASCEND_IR_VERSION, ASCEND_OPSET, OnnxDraft, build_graph

                if self.recipe is None:
                    return OnnxDraft(build_graph(self.rewritten, self.artefact))
                return OnnxDraft(
                    build_graph(self.rewritten, self.artefact, opset=ASCEND_OPSET, ir_version=ASCEND_IR_VERSION)
                )
            case "openvino":
                from inceptionv4.export.onnx import build_graph
                from inceptionv4.export.openvino import OpenVinoDraft, read_graph

                return OpenVinoDraft(read_graph(build_graph(self.rewritten, self.artefact)))
            case "pt2":
                from inceptionv4.export.pt2 import trace

                return trace(self.rewritten, self.artefact)
            case "mindir":
                from inceptionv4.export.mindspore import MindIrDraft

                return MindIrDraft(self.rewritten, self.key)
            case "air":
                from inceptionv4.export.mindspore import AirDraft

                return AirDraft(self.rewritten)
            case _:
                raise ValueError(f"{self.artefact.format} is not made here")

    def _draft_int8(self, path: Path, int8: Int8) -> tuple[Draft, Artefact, Backend]:
        """Round to 8 bits, with ever more of the worst convolutions in float, until the accuracy is kept."""
        chosen = quantize.choose_images(int8.calibrate, int8.samples)
        preprocessing = self.artefact.spec.preprocessing
        images = quantize.read_images(chosen, preprocessing)
        make = self._int8_maker(list(_as_inputs(images, self.artefact.input, preprocessing)))
        ranking = quantize.rank_convolutions(self.rewritten, images, preprocessing)
        reference = TorchBackend(
            self.network, self.artefact.spec, select_device("cpu", "fp32"), trained_on=self.artefact.trained_on
        )
        validate = int8.validate or int8.calibrate
        top1_float = self._top1(reference, validate, "float")
        drops = []
        for count in FLOAT_LAYERS:
            layers = tuple(ranking[:count])
            draft = make(layers)
            draft.save(self.artefact, path)
            backend = self._open(path)
            top1 = self._top1(backend, validate, f"int8, {count} in float" if count else "int8")
            drops.append(f"{100 * (top1_float - top1):.2f} with {count}")
            if 100 * (top1_float - top1) <= int8.max_drop:
                calibration = Calibration(
                    data=int8.calibrate,
                    seed=quantize.SEED,
                    files=tuple(chosen.path(index) for index in range(len(chosen))),
                    float_layers=layers,
                    top1_float=top1_float,
                    top1_int8=top1,
                )
                return draft, replace(self.artefact, calibration=calibration), backend
        raise Error(
            f"int8 costs more than {int8.max_drop:g} points of top-1 on {validate}: {', '.join(drops)} convolutions "
            "in float; nothing was kept; calibrate with more images, allow more by --max-drop, or stay in float"
        )

    def _int8_maker(self, inputs: list[np.ndarray]) -> Callable[[tuple[str, ...]], Draft]:
        from inceptionv4.export.onnx import OnnxDraft, build_graph

        model = build_graph(self.rewritten, replace(self.artefact, batch_size=None))
        if self.artefact.format == "onnx":
            return lambda layers: OnnxDraft(quantize.quantize_onnx(model, inputs, layers))
        from inceptionv4.export.openvino import OpenVinoDraft, read_graph

        graph = read_graph(model)
        return lambda layers: OpenVinoDraft(quantize.quantize_openvino(graph, inputs, layers))

    def _top1(self, backend: Backend, data: str, what: str) -> float:
        samples, _ = choose_images(data, self.artefact.spec.classes, self.artefact.trained_on)
        with Progress(f"accuracy, {what}", total=len(samples)) as progress:
            return evaluate_backend(backend, samples, after_batch=progress.advance).top1

    def _open(self, path: Path) -> Backend:
        if self.key is not None:
            from inceptionv4.inference.backends.mindspore import MindSporeBackend

            return MindSporeBackend(path, key=self.key)
        backend = open_backend(path, device="cpu")
        assert isinstance(backend, GraphBackend)
        return backend


def _as_inputs(images: torch.Tensor, kind: Input, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """Batches of uint8 images `(n, 3, size, size)` as a graph takes them."""
    for part in torch.split(images, 8):
        if kind == "uint8":
            yield part.permute(0, 2, 3, 1).contiguous().numpy()
        else:
            yield normalize(part, preprocessing).contiguous().numpy()
