"""int8 that keeps the accuracy: convolutions stay in float, ever more of them, until it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from inceptionv4.artefact import Artefact, Calibration, Input
from inceptionv4.data.transforms import normalize
from inceptionv4.errors import Error
from inceptionv4.evaluation.evaluate import choose_images, evaluate_backend
from inceptionv4.export import quantize
from inceptionv4.export.draft import Draft
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import select_device
from inceptionv4.runtime.progress import Progress
from inceptionv4.spec import Preprocessing

FLOAT_LAYERS = (0, 8, 16, 32, 64)
"""Convolutions, of 149, that stay in float in one attempt after another."""


@dataclass(frozen=True)
class Int8:
    """How to round to 8 bits: ranges from `samples` training images at `calibrate`; accuracy measured on all images
    held out at `validate` (`calibrate`, if not given), which may fall by `max_drop`, in points.
    """

    calibrate: str
    samples: int = 300
    validate: str | None = None
    max_drop: float = 0.3


def round_model(
    network: InceptionV4, rewritten: InceptionV4, artefact: Artefact, int8: Int8, path: Path
) -> tuple[Draft, Artefact]:
    """The model in 8 bits, with as few of the worst convolutions in float as the accuracy takes, and its description.
    What is tried is saved at `path`.

    Raises:
        UsageError: what rounds this form is not installed.
        DataError: the images cannot be used.
        Error: it costs too much accuracy, also with the most of them in float.
    """
    preprocessing = artefact.spec.preprocessing
    chosen = quantize.choose_images(int8.calibrate, int8.samples, artefact.trained_on)
    images = quantize.read_images(chosen, preprocessing)
    make = _maker(rewritten, artefact, list(_as_inputs(images, artefact.input, preprocessing)))
    ranking = quantize.rank_convolutions(rewritten, images, preprocessing)
    validate = int8.validate or int8.calibrate
    device = select_device("cpu", "fp32")
    top1_float = _top1(TorchBackend(network, artefact.spec, device, trained_on=artefact.trained_on), validate, "float")
    drops = []
    for count in FLOAT_LAYERS:
        layers = tuple(ranking[:count])
        draft = make(layers)
        draft.save(artefact, path)
        top1 = _top1(draft.open(path), validate, f"int8, {count} in float" if count else "int8")
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
            return draft, replace(artefact, calibration=calibration)
    raise Error(
        f"int8 costs more than {int8.max_drop:g} points of top-1 on {validate}: {', '.join(drops)} convolutions "
        "in float; nothing was kept; calibrate with more images, allow more by --max-drop, or stay in float"
    )


def _top1(backend: Backend, data: str, what: str) -> float:
    samples, _ = choose_images(data, backend.spec.classes, backend.trained_on)
    with Progress(f"accuracy, {what}", total=len(samples)) as progress:
        return evaluate_backend(backend, samples, after_batch=progress.advance).top1


def _maker(rewritten: InceptionV4, artefact: Artefact, inputs: list[np.ndarray]) -> Callable[[tuple[str, ...]], Draft]:
    """What makes a draft that leaves the convolutions of these names in float.

    Ranges are measured on any number of images at once; where the file is to take a fixed one, that is said afterwards.
    """
    from inceptionv4.export.onnx import OnnxDraft, build_graph, fix_batch

    model, batch_size = build_graph(rewritten, replace(artefact, batch_size=None)), artefact.batch_size
    if artefact.format == "onnx":
        return lambda layers: OnnxDraft(fix_batch(quantize.quantize_onnx(model, inputs, layers), batch_size))
    from inceptionv4.export import openvino

    graph = openvino.read_graph(model)
    return lambda layers: openvino.OpenVinoDraft(
        openvino.fix_batch(quantize.quantize_openvino(graph, inputs, layers), batch_size)
    )


def _as_inputs(images: torch.Tensor, kind: Input, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """Batches of uint8 images `(n, 3, size, size)` as a graph takes them."""
    for part in torch.split(images, 8):
        if kind == "uint8":
            yield part.permute(0, 2, 3, 1).contiguous().numpy()
        else:
            yield normalize(part, preprocessing).contiguous().numpy()
