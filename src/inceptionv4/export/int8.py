"""int8 that keeps the accuracy: convolutions stay in float, ever more of them, until it does.

Accuracy counts as kept unless it falls by more than is allowed and significantly, by a paired test on the same images:
on a few hundred of them one flipped image alone would be more points than are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from inceptionv4.data.samples import Samples
from inceptionv4.data.transforms import normalize
from inceptionv4.errors import Error
from inceptionv4.evaluation.evaluate import choose_images
from inceptionv4.evaluation.paired import LEAST_LOST, compare_paired, predict_classes
from inceptionv4.export import quantize
from inceptionv4.export.verify import Exporter
from inceptionv4.export_metadata import Calibration, ExportMetadata, Input
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import select_device
from inceptionv4.runtime.progress import Progress
from inceptionv4.spec import Preprocessing

FLOAT_LAYERS = (0, 8, 16, 32, 64)
"""Convolutions, of 149, that stay in float in one attempt after another."""
NAMED = 10
"""Flipped images that a message names."""


@dataclass(frozen=True)
class Int8:
    """How to round to 8 bits: ranges from `samples` training images at `calibrate`; accuracy measured on all images
    held out at `validate` (`calibrate`, if not given), which may fall by `max_drop` percentage points; a fall that is
    not significant (`evaluation.paired`) is not counted.
    """

    calibrate: str
    samples: int = 300
    validate: str | None = None
    max_drop: float = 0.3


def round_model(
    network: InceptionV4, rewritten: InceptionV4, metadata: ExportMetadata, int8: Int8, path: Path
) -> tuple[Exporter, ExportMetadata]:
    """The model in 8 bits, with as few of the worst convolutions in float as the accuracy takes, and its description.
    What is tried is saved at `path`.

    Raises:
        UsageError: what rounds this form is not installed.
        DataError: the images cannot be used.
        Error: it costs too much accuracy, also with the most of them in float.
    """
    preprocessing = metadata.spec.preprocessing
    chosen = quantize.choose_images(int8.calibrate, int8.samples, metadata.trained_on)
    images = quantize.read_images(chosen, preprocessing)
    make = _maker(rewritten, metadata, list(_as_inputs(images, metadata.input, preprocessing)))
    ranking = quantize.rank_convolutions(rewritten, images, preprocessing)
    validate = int8.validate or int8.calibrate
    held_out, _ = choose_images(validate, metadata.spec.classes, metadata.trained_on)
    plain = TorchBackend(network, metadata.spec, select_device("cpu", "fp32"), trained_on=metadata.trained_on)
    expected = _answer(plain, held_out, "float")
    drops = []
    for count in FLOAT_LAYERS:
        layers = tuple(ranking[:count])
        exporter = make(layers)
        exporter.save(metadata, path)
        answers = _answer(exporter.open(path), held_out, f"int8, {count} in float" if count else "int8")
        comparison = compare_paired(expected == held_out.labels, answers == held_out.labels)
        lost, gained = (_name_flips(held_out, rows, expected, answers) for rows in (comparison.lost, comparison.gained))
        if not comparison.is_worse(int8.max_drop):
            calibration = Calibration(
                data=int8.calibrate,
                seed=quantize.SEED,
                files=tuple(chosen.path(index) for index in range(len(chosen))),
                float_layers=layers,
                top1_float=float((expected == held_out.labels).mean()),
                top1_int8=float((answers == held_out.labels).mean()),
                images=len(held_out),
                lost=lost,
                gained=gained,
            )
            return exporter, replace(metadata, calibration=calibration)
        drops.append(f"{comparison.drop:.2f} points with {count}")
    raise Error(
        f"int8 costs more than {int8.max_drop:g} points of top-1 on {validate}: {', '.join(drops)} convolutions in "
        f"float, at last with p = {comparison.p_value:.2g}. {describe_flips(len(held_out), lost, gained)}. Nothing was "
        "kept; calibrate with more images, allow more by --max-drop, or stay in float"
    )


def describe_flips(images: int, lost: Sequence[str], gained: Sequence[str]) -> str:
    """Which of `images` answers int8 makes wrong, how many it makes right, and the smallest drop that so many show."""
    named = ", ".join(lost[:NAMED]) + (f" and {len(lost) - NAMED} more" if len(lost) > NAMED else "")
    flips = f"int8 loses {len(lost)} of {images} images{f' ({named})' if lost else ''} and gains {len(gained)}"
    if images < LEAST_LOST:
        return f"{flips}; no drop is significant on fewer than {LEAST_LOST} images"
    return f"{flips}; on so many, a drop of {100 * LEAST_LOST / images:.2g} points is the smallest significant one"


def _answer(backend: Backend, samples: Samples, what: str) -> np.ndarray:
    with Progress(f"accuracy, {what}", total=len(samples)) as progress:
        return predict_classes(backend, samples, progress.advance)


def _name_flips(samples: Samples, rows: Iterable[int], expected: np.ndarray, answers: np.ndarray) -> tuple[str, ...]:
    names = samples.classes
    return tuple(f"{samples.path(row)} ({names[expected[row]]} -> {names[answers[row]]})" for row in rows)


def _maker(
    rewritten: InceptionV4, metadata: ExportMetadata, inputs: list[np.ndarray]
) -> Callable[[tuple[str, ...]], Exporter]:
    """Return a function that builds an exporter which leaves the convolutions of these names in float.

    Ranges are measured on any number of images at once; where the file is to take a fixed one, that is said afterwards.
    """
    from inceptionv4.export.onnx import OnnxExporter, build_graph, fix_batch

    model, batch_size = build_graph(rewritten, replace(metadata, batch_size=None)), metadata.batch_size
    if metadata.format == "onnx":
        return lambda layers: OnnxExporter(fix_batch(quantize.quantize_onnx(model, inputs, layers), batch_size))
    from inceptionv4.export import openvino

    graph = openvino.read_graph(model)
    return lambda layers: openvino.OpenVinoExporter(
        openvino.fix_batch(quantize.quantize_openvino(graph, inputs, layers), batch_size)
    )


def _as_inputs(images: torch.Tensor, kind: Input, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """Batches of uint8 images `(n, 3, size, size)` as a graph takes them."""
    for part in torch.split(images, 8):
        if kind == "uint8":
            yield part.permute(0, 2, 3, 1).contiguous().numpy()
        else:
            yield normalize(part, preprocessing).contiguous().numpy()
