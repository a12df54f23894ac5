"""From JPEG files to labels, beside the bare model of the same runtime, a script of OpenVINO's, and timm; in one run.

    python benchmarks/predict.py --json

A network of full width with random weights, 1000 classes, 299 px; two threads; photographs of 500 x 375. "bare" is
the backend's answer to batches of 16 that lie in memory as pixels. "predict" is `Classifier.predict` and "evaluate"
the loop of `inceptionv4 evaluate`, from files, with as many decoding threads as the name says. The script is OpenVINO
as its manual tunes it for throughput: shapes fixed, one image at a time, two streams, a queue that is never empty, and
floats that are ready. It is compared with the backend's answer to the same floats ("floats"): pixels to floats are 1 %
that the script has behind it. timm is eager, channels last, and has its floats ready too.

int8 is quantized on images of this very set and not checked for accuracy, which random weights do not have. bf16 is
measured where the processor computes in it. "torch, bare" is what `predict` does by default; the ratios `over_default`
are what other runtimes and precisions would gain.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import timm
import torch
from measure import Contender, Speeds, circumstances, interleave, report
from photographs import write_photographs
from torch import Tensor

from inceptionv4.config import PrecisionOption, RuntimeName
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.data.samples import Samples, relabel
from inceptionv4.data.transforms import normalize
from inceptionv4.evaluation.evaluate import evaluate_backend
from inceptionv4.export import quantize
from inceptionv4.export.onnx import build_graph
from inceptionv4.export.openvino import OpenVinoExporter, read_graph
from inceptionv4.export_metadata import ExportMetadata, Precision
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.backends.openvino import HINTS, OpenVinoBackend
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.inference.classifier import Classifier
from inceptionv4.inference.open_weights import Weights
from inceptionv4.network.inference_graph import build_inference_graph
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import computes_bf16, select_device
from inceptionv4.spec import ModelSpec

BATCH, THREADS, STREAMS = 16, 2, 2
DECODING = (1, 2)
"""Threads that decode."""
SPEC = ModelSpec(classes=("a", "b", *(f"class {number}" for number in range(2, 1000))))
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")


class Photographs:
    """The images: files, labelled samples, and pixels `(n, 3, size, size)`."""

    def __init__(self, folder: Path, count: int) -> None:
        write_photographs(folder, 500, 375, count)
        self.files = sorted(folder.rglob("*.jpg"))
        self.samples: Samples = relabel(read_dataset(folder).all(), SPEC.classes)
        batches = evaluation_batches(self.samples, SPEC.preprocessing, batch_size=BATCH, workers=0)
        self.batches = [batch.images for batch in batches]

    def inputs(self) -> list[Tensor]:
        return [normalize(images, SPEC.preprocessing) for images in self.batches]


def bare(backend: Backend, photographs: Photographs) -> Contender:
    return lambda: sum(len(backend.infer(images)) for images in photographs.batches)


def predicted(backend: Backend, photographs: Photographs) -> Contender:
    classifier = Classifier(backend)
    return lambda: sum(prediction.error is None for prediction in classifier.predict(photographs.files))


def floats(backend: Backend, photographs: Photographs) -> Contender:
    batches = [images.contiguous() for images in photographs.inputs()]
    return lambda: sum(len(backend.infer(images)) for images in batches)


def evaluated(backend: Backend, photographs: Photographs, name: str) -> dict[str, Contender]:
    def measure(workers: int) -> Contender:
        return lambda: evaluate_backend(backend, photographs.samples, workers=workers).images

    return {f"{name}, evaluate, {workers}": measure(workers) for workers in DECODING}


def timms(photographs: Photographs) -> Contender:
    network = timm.create_model("inception_v4", num_classes=1000).eval().to(memory_format=torch.channels_last)
    batches = [images.contiguous(memory_format=torch.channels_last) for images in photographs.inputs()]

    @torch.inference_mode()
    def answer() -> int:
        return sum(len(network(images)) for images in batches)

    return answer


class OpenVinoForm:
    """The network in OpenVINO, in one precision: as our backend runs it, and as a script would."""

    def __init__(self, network: InceptionV4, precision: Precision, photographs: Photographs, folder: Path) -> None:
        metadata = ExportMetadata(format="openvino", precision=precision, spec=SPEC, version="0", weights="")
        graph = read_graph(build_graph(build_inference_graph(network), replace(metadata, precision="fp32")))
        if precision == "int8":
            graph = quantize.quantize_openvino(graph, [photographs.inputs()[0].contiguous().numpy()], ())
        self.path = folder / f"{precision}.xml"
        OpenVinoExporter(graph).save(metadata, self.path)
        self.precision = precision
        self.backend = OpenVinoBackend.open(self.path)

    @property
    def is_native(self) -> bool:
        """True if it is computed as asked, and not in float32 for want of instructions."""
        return self.precision == self.backend.precision

    def script(self, photographs: Photographs) -> Contender:
        core = openvino.Core()
        model = core.read_model(self.path)
        size = SPEC.preprocessing.size
        model.reshape([1, 3, size, size])
        settings = {"NUM_STREAMS": STREAMS, "INFERENCE_PRECISION_HINT": HINTS[self.precision]}
        queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", settings), STREAMS)
        images = np.concatenate([batch.contiguous().numpy() for batch in photographs.inputs()])
        logits = np.empty((len(images), len(SPEC.classes)), np.float32)

        def keep(request: openvino.InferRequest, number: int) -> None:
            logits[number] = request.get_output_tensor(0).data[0]

        queue.set_callback(keep)

        def answer() -> int:
            for number in range(len(images)):
                queue.start_async({0: images[number : number + 1]}, number, share_inputs=True)
            queue.wait_all()
            return len(images)

        return answer


def summary(speeds: Speeds, pairs: dict[str, tuple[str, str]]) -> dict[str, object]:
    results: dict[str, object] = {}
    for name, (one, other) in pairs.items():
        if one in speeds.rounds and other in speeds.rounds:
            results[name] = speeds.ratio(one, other)
            results[f"spread_{name.removeprefix('ratio_')}"] = speeds.spread(one, other)
        else:
            results[name] = None
    return results


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--images", type=int, default=2 * BATCH)
    arguments.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    given = arguments.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    network = InceptionV4(len(SPEC.classes), width=SPEC.width).eval()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photographs = Photographs(folder / "images", given.images)
        backend = TorchBackend(network, SPEC, select_device("cpu", "fp32"))
        runs_on = {"torch": backend.describe()}
        contenders = {
            "torch, bare": bare(backend, photographs),
            "torch, predict": predicted(backend, photographs),
            **evaluated(backend, photographs, "torch"),
            "timm": timms(photographs),
        }
        others: list[tuple[RuntimeName, PrecisionOption]] = [("onnxruntime", "fp32")]
        if computes_bf16(torch.device("cpu")):
            others.append(("torch", "bf16"))
        weights = Weights(build_inference_graph(network), SPEC, device="cpu")
        for runtime, option in others:
            other = weights.open(runtime, option)
            runs_on[f"{runtime} {option}"] = other.describe()
            contenders[f"{runtime} {option}, bare"] = bare(other, photographs)
        for precision in given.precisions:
            print(f"OpenVINO's {precision}", file=sys.stderr)
            form = OpenVinoForm(network, precision, photographs, folder)
            name = f"OpenVINO {precision}"
            runs_on[name] = form.backend.describe()
            if form.is_native:
                contenders[f"{name}, bare"] = bare(form.backend, photographs)
                contenders[f"{name}, predict"] = predicted(form.backend, photographs)
                contenders[f"{name}, floats"] = floats(form.backend, photographs)
                contenders[f"{name}, script"] = form.script(photographs)
            if precision == "int8":  # the fastest: decoding is seen best
                contenders |= evaluated(form.backend, photographs, name)
        speeds = interleave(contenders, given.rounds)
    results = circumstances(("inceptionv4", "torch", "timm", "openvino", "nncf", "pillow"))
    results |= summary(
        speeds,
        {
            "ratio_bare_model": ("torch, predict", "torch, bare"),
            "ratio_bare_model_evaluate": ("torch, evaluate, 2", "torch, bare"),
            **{
                f"ratio_bare_model_openvino_{precision}": (
                    f"OpenVINO {precision}, predict",
                    f"OpenVINO {precision}, bare",
                )
                for precision in PRECISIONS
            },
            **{
                f"ratio_openvino_{precision}": (f"OpenVINO {precision}, floats", f"OpenVINO {precision}, script")
                for precision in PRECISIONS
            },
            **{
                f"ratio_second_thread_{name}": (f"{name}, evaluate, 2", f"{name}, evaluate, 1")
                for name in ("torch", "OpenVINO int8")
            },
            **{
                f"ratio_over_default_{name.replace(' ', '_')}": (f"{name}, bare", "torch, bare")
                for name in ("torch bf16", "onnxruntime fp32", *(f"OpenVINO {precision}" for precision in PRECISIONS))
            },
            "ratio_timm_eager": ("torch, bare", "timm"),
        },
    )
    results["images_per_second"] = {name: round(speeds.median(name), 2) for name in speeds.rounds}
    results["runs_on"] = runs_on
    results["n"] = given.rounds
    report(results, given.json)


if __name__ == "__main__":
    main()
