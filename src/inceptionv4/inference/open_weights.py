"""Weights, opened in the runtime and the precision that answer for them.

    model = Weights(rewrite(network), spec, trained_on, device="cpu")
    model.open()                # PyTorch in fp32
    model.open_fastest("auto")  # the fastest of the runtimes that are installed, each in the processor's own precision

`auto` is decided once, before the first answer, and nothing changes it later: what an image is told depends neither on
its place in a stream nor on the load of the machine.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, get_args

from torch import Tensor

from inceptionv4.artefact import Artefact, Precision
from inceptionv4.config import PrecisionOption, RuntimeOption
from inceptionv4.data.index import DIGITS, read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.errors import UsageError
from inceptionv4.inference.agreement import agrees, compare
from inceptionv4.inference.backends.backend import Backend, Trial
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import CPU, select_device
from inceptionv4.runtime.progress import Progress
from inceptionv4.spec import ModelSpec

NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
GAIN = 1.05
"""`auto` leaves PyTorch only for a runtime that is this many times as fast, so that chance does not decide."""
HINT_GAIN = 1.5
"""A hint names options that make answers at least this many times as fast."""
HINT_AFTER = 1000
"""Images of a run, after which a hint pays for the seconds that it takes to measure."""
TIMED_SECONDS, TIMED_BATCHES = 0.5, 2
"""A trial times a runtime for at least so long, and at least so many batches."""


@dataclass(frozen=True)
class Weights:
    """A network as `network.rewrites` leaves it, and what came with its weights."""

    rewritten: InceptionV4
    spec: ModelSpec
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"

    def open(self, runtime: RuntimeOption = "torch", precision: PrecisionOption = "fp32") -> Backend:
        """The model in `runtime`. The precision `auto` is bf16 where runtime and device compute in it, else fp32.

        Raises:
            UsageError: no such device, or the runtime is not installed or does not compute there in that precision;
                `auto` as a runtime for one of several processes, each of which could choose another.
        """
        match runtime:
            case "torch":
                device = select_device(self.device, precision)
                return TorchBackend(self.rewritten, self.spec, device, mode="eager", trained_on=self.trained_on)
            case "auto":
                return self.open_fastest(precision)
            case _:
                return self._open_graph(runtime, precision)

    def open_fastest(self, precision: PrecisionOption) -> Backend:
        """The model in the fastest runtime, by a trial that is printed on standard error; raises as `open` does."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError(
                "--runtime auto is for one process: each of several could choose another; name a runtime, or none"
            )
        backend, trials = self.try_runtimes(precision)
        size = self.spec.preprocessing.size
        print(f"trial on {backend.batch_size} images of {size} px:", *trials, sep="\n  ", file=sys.stderr)
        print(f"answers come from {backend.describe()}", file=sys.stderr)
        backend.trials = trials
        return backend

    def try_runtimes(self, precision: PrecisionOption) -> tuple[Backend, tuple[Trial, ...]]:
        """The fastest runtime whose answers agree with PyTorch's in fp32, as an exported file's must, and all trials.

        Each answers a batch of the package's digits, prepared as the model's own preprocessing says.
        """
        best = self.open("torch", precision)
        images = trial_images(self.spec, best.batch_size)
        expected = self.open("torch", "fp32").infer(images)
        trials = [Trial(best.describe(), speed := measure_speed(best, images))]
        needed = GAIN * speed
        for runtime in get_args(RuntimeOption):
            if runtime in ("torch", "auto") or self._obstacle(runtime) is not None:
                continue
            try:
                backend = self._open_graph(runtime, precision)
                trial = _try(backend, images, expected)
            except Exception as error:  # noqa: BLE001 - a runtime that nobody named may raise anything; the others go on
                trials.append(Trial(NAMES[runtime], None, f"failed: {' '.join(str(error).split())[:200]}"))
                continue
            trials.append(trial)
            if trial.images_per_second is not None and trial.images_per_second >= needed:
                best, needed = backend, trial.images_per_second
        return best, tuple(trials)

    def _open_graph(self, runtime: RuntimeOption, precision: PrecisionOption) -> Backend:
        """The model as an ONNX graph in memory, in ONNX Runtime or OpenVINO."""
        if obstacle := self._obstacle(runtime):
            raise UsageError(obstacle)
        from inceptionv4.network.onnx import write_graph

        artefact = Artefact(
            format="openvino" if runtime == "openvino" else "onnx",
            precision=_resolve(runtime, precision),
            spec=self.spec,
            version=metadata.version("inceptionv4"),
            weights="",
            trained_on=self.trained_on,
        )
        graph = write_graph(self.rewritten, self.spec.preprocessing.size).SerializeToString()
        backend: Backend
        if runtime == "openvino":
            from inceptionv4.inference.backends.openvino import OpenVinoBackend

            backend = OpenVinoBackend.of_graph(graph, artefact)
        else:
            from inceptionv4.inference.backends.onnx import OnnxBackend

            backend = OnnxBackend.of_graph(graph, artefact, select_device(self.device, "fp32").device)
        if precision not in ("auto", backend.precision):
            raise UsageError(
                f"{NAMES[runtime]} computes in {backend.precision} here, not in {precision}; "
                f"give --precision {backend.precision} or auto, or --runtime torch"
            )
        return backend

    def _obstacle(self, runtime: RuntimeOption) -> str | None:
        """Why a graph cannot be run by `runtime` on this device; None if it can."""
        extra = "onnx" if runtime == "onnxruntime" else runtime
        absent = [module for module in ("onnx", runtime) if importlib.util.find_spec(module) is None]
        if absent:
            return f"--runtime {runtime} needs {' and '.join(absent)}: pip install 'inceptionv4[{extra}]'"
        kinds: tuple[str, ...] = (CPU,)
        if runtime == "onnxruntime":
            from inceptionv4.inference.backends.onnx import devices

            kinds = devices()
        kind = select_device(self.device, "fp32").device.type
        if kind in kinds:
            return None
        return f"--runtime {runtime} computes on {' or '.join(kinds)} here, not on {kind}; give --device {kinds[0]}"


class HintedProgress:
    """Counts images like `Progress`, and after the first 1,000 shows a line on faster options, if there are any."""

    def __init__(self, progress: Progress, backend: Backend) -> None:
        self._progress, self._backend, self._left = progress, backend, HINT_AFTER

    def advance(self, images: int) -> None:
        """Count `images` more."""
        self._progress.advance(images)
        if self._left >= 0 > self._left - images and (line := speed_hint(self._backend)):
            self._progress.announce(line)
        self._left -= images


def speed_hint(backend: Backend) -> str | None:
    """Options that make a model answer at least 1.5 times as fast on this machine, in a line; None if there are none.

    It measures, for seconds, and changes no answers. `backend` is one that `Weights.open` opened in fp32.
    """
    if not isinstance(backend, TorchBackend) or not isinstance(backend.network, InceptionV4):
        return None
    model = Weights(backend.network, backend.spec, backend.trained_on, str(backend.device.device))
    fastest, trials = model.try_runtimes("auto")
    speed = max(trial.images_per_second or 0.0 for trial in trials)
    gain = speed / measure_speed(backend, trial_images(backend.spec, backend.batch_size))
    if gain < HINT_GAIN:
        return None
    options = [f"--runtime {fastest.runtime}"] if fastest.runtime != "torch" else []
    options += [f"--precision {fastest.precision}"] if fastest.precision != "fp32" else []
    return f"{' '.join(options)} would be {gain:.1f} times as fast here (by a trial of {fastest.describe()})"


def measure_speed(backend: Backend, images: Tensor) -> float:
    """Images a second of the fastest of some answers to a batch, after one that is not timed."""
    backend.infer(images)
    seconds: list[float] = []
    while len(seconds) < TIMED_BATCHES or sum(seconds) < TIMED_SECONDS:
        start = time.perf_counter()
        backend.infer(images)
        seconds.append(time.perf_counter() - start)
    return len(images) / min(seconds)


def trial_images(spec: ModelSpec, count: int) -> Tensor:
    """Digits of the package, uint8 `(count, 3, size, size)`, prepared as the model's own preprocessing says."""
    digits = evaluation_batches(read_dataset(DIGITS).val, spec.preprocessing, batch_size=count, workers=0)
    return next(iter(digits)).images


def _try(backend: Backend, images: Tensor, expected: Tensor) -> Trial:
    agreement = compare(expected, backend.infer(images), backend.precision)
    if agrees(agreement, backend.precision):
        return Trial(backend.describe(), measure_speed(backend, images))
    differs, allowed = agreement.largest_difference, agreement.tolerance
    return Trial(backend.describe(), None, f"a logit differs by {differs:.2g}, allowed are {allowed:.2g}")


def _resolve(runtime: RuntimeOption, precision: PrecisionOption) -> Precision:
    """The precision that a graph is to be computed in.

    Raises:
        UsageError: ONNX Runtime has no such precision.
    """
    if runtime == "onnxruntime":
        if precision not in ("auto", "fp32"):
            raise UsageError(f"ONNX Runtime computes weights in fp32, not in {precision}; give --precision fp32")
        return "fp32"
    if precision != "auto":
        return precision
    from inceptionv4.inference.backends.openvino import precisions

    return "bf16" if "bf16" in precisions() else "fp32"
