"""One trained model in every form: size, speed, accuracy, and how far its answers are from the network's.

    python benchmarks/runtimes.py --model runs/digits --data digits --json

Each form is exported through the gate and evaluated on all held-out images; then all answer a batch of 16 images in
turn, round by round, two threads each. MINDIR takes one image at a time. Each has a process of its own, which sleeps
while the others answer: in one process, the idle threads of one runtime spin on the cores that another one needs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import circumstances, interleave, report
from torch import Tensor

from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.evaluation.evaluate import evaluate
from inceptionv4.export.export import export_model
from inceptionv4.export.options import ExportOptions
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.weights.load import find_model

BATCH, THREADS = 16, 2
SOURCE = "PyTorch"
FORMS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "ONNX": ("onnx", "onnx", {}),
    "ONNX, int8": ("onnx", "onnx", {"int8": True}),
    "OpenVINO": ("openvino", "xml", {}),
    "OpenVINO, int8": ("openvino", "xml", {"int8": True}),
    "MINDIR": ("mindir", "mindir", {"batch_size": 1}),
}


def export_all(model: str, data: str, folder: Path) -> dict[str, list[Path]]:
    """The files of each form, the one to open first."""
    files = {SOURCE: [find_model(model)]}
    for name, (form, ending, options) in FORMS.items():
        print(f"exporting {name}", file=sys.stderr)
        path = folder / f"{name.replace(', ', '-')}.{ending}"
        calibrate = data if "int8" in options else None
        export_model(model, ExportOptions(format=form, output=path, calibrate=calibrate, validate=data, **options))
        files[name] = [path, path.with_suffix(".bin")] if ending == "xml" else [path]
    return files


def load_images(data: str, backend: Backend) -> Tensor:
    """The first batch of the held-out ones, uint8."""
    batches = evaluation_batches(read_dataset(data).val, backend.spec.preprocessing, batch_size=BATCH, workers=0)
    return next(batches).images


def serve(model: str, data: str) -> None:
    """Answer the batch once for each line on standard input."""
    backend = open_backend(model, device="cpu")
    images = load_images(data, backend)
    for _ in sys.stdin:
        print(len(backend.infer(images)), flush=True)


class Answering:
    """A form in a process of its own."""

    def __init__(self, file: Path, data: str) -> None:
        command = [sys.executable, __file__, "--serve", str(file), "--data", data]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.serve:
        serve(arguments.serve, arguments.data)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = export_all(arguments.model, arguments.data, Path(folder))
        contenders: dict[str, Answering] = {}
        try:
            for name, paths in files.items():
                contenders[name] = Answering(paths[0], arguments.data)
            speeds = interleave(contenders, arguments.rounds)
        finally:
            for contender in contenders.values():
                contender.close()
        backends = {name: open_backend(paths[0], device="cpu") for name, paths in files.items()}
        images = load_images(arguments.data, backends[SOURCE])
        expected = backends[SOURCE].infer(images)
        rows: dict[str, object] = {}
        for name, backend in backends.items():
            metrics = evaluate(files[name][0], arguments.data, device="cpu").metrics
            rows[name] = {
                "runs on": backend.describe(),
                "megabytes": sum(path.stat().st_size for path in files[name]) / 1e6,
                "images_per_second": speeds.median(name),
                "over PyTorch": speeds.ratio(name, SOURCE),
                "spread": speeds.spread(name, SOURCE),
                "top1": metrics.top1,
                "images": metrics.images,
                "largest_difference": float((backend.infer(images) - expected).abs().max()),
                "largest_logit": float(expected.abs().max()),
            }
    packages = ("torch", "onnxruntime", "openvino", "nncf", "mindspore")
    report(rows | circumstances(packages), arguments.json)


if __name__ == "__main__":
    main()
