"""The fastest runtime that is here, for weights on a processor, found by trying."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from torch import Tensor

from inceptionv4.artefact import Artefact, Format, Precision
from inceptionv4.data.index import DIGITS, read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.inference.agreement import agrees, compare
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.backends.onnx import OnnxBackend
from inceptionv4.inference.backends.openvino import OpenVinoBackend
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import Device
from inceptionv4.spec import ModelSpec

TRIAL_AFTER = 1024
"""Images, or views of them, that torch answers before others are tried: a trial takes as long as a hundred of them."""
GAIN = 1.05
"""Times as fast as torch that another must be, so that chance does not decide."""
TIMED_SECONDS, TIMED_ANSWERS = 0.5, 2
"""For which a runtime is timed at least."""


@dataclass(frozen=True)
class Rival:
    """A runtime that may be faster than torch on a processor."""

    module: str
    """The package that it needs, beside onnx."""
    format: Format
    precisions: tuple[Precision, ...]
    """In which it computes; only what torch computes in here is compared with it."""
    open: Callable[[bytes, Artefact], Backend]
    """Of an ONNX graph."""


RIVALS = (
    Rival("openvino", "openvino", ("fp32", "bf16"), OpenVinoBackend.of_graph),
    Rival("onnxruntime", "onnx", ("fp32",), OnnxBackend.of_graph),
)


@dataclass(frozen=True)
class Trial:
    """What came of one runtime."""

    runtime: str
    images_per_second: float | None
    """On one batch that was in memory; None: it did not answer, or not alike."""
    reason: str = ""
    """Why it was not timed."""


class FastestBackend(TorchBackend):
    """Torch, until another runtime has shown, on the caller's own images, that it answers alike and faster.

    It is tried after `TRIAL_AFTER` images, since few do not pay for making its graph; `warm_up` tries at once, on the
    package's digits. It computes in the precision of torch, and its answers to a batch are torch's, as far as those of
    an exported file must be (`inference.agreement`). Less than half a batch is torch's for good: OpenVINO gives a
    single image one of its streams, and so half of two cores. Both models are in memory then.
    """

    def __init__(
        self, network: InceptionV4, spec: ModelSpec, device: Device, *, trained_on: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(network, spec, device, trained_on=trained_on)
        self.trials: tuple[Trial, ...] = ()
        """Torch and its rivals, once they were tried."""
        self._chosen: Backend | None = None
        self._untried = TRIAL_AFTER

    def infer(self, images: Tensor) -> Tensor:
        many = 2 * len(images) >= self.batch_size
        if self._chosen is not None and many:
            return self._chosen.infer(images)
        logits = super().infer(images)
        self._untried -= len(images)
        if self._untried <= 0 and not self.trials and many:
            self._try(images, logits)
        return logits

    def warm_up(self) -> None:
        """Try all runtimes on a batch of the package's digits, and stay with the fastest."""
        if not self.trials:
            digits = evaluation_batches(
                read_dataset(DIGITS).val, self.spec.preprocessing, batch_size=self.batch_size, workers=0
            )
            images = next(iter(digits)).images
            self._try(images, super().infer(images))

    def describe(self) -> str:
        if self._chosen is None:
            return super().describe()
        return f"{self._chosen.describe()}; fewer than {-(-self.batch_size // 2)} at once by PyTorch"

    def _try(self, images: Tensor, logits: Tensor) -> None:
        """Have every runtime answer `images`, to which torch has answered `logits`, and choose among them."""
        speed = _speed(super().infer, images)
        self.trials, needed = (Trial(super().describe(), speed),), speed * GAIN
        graph = b""
        for rival in RIVALS:
            if self.device.precision not in rival.precisions or not _is_here(rival):
                continue
            try:
                graph = graph or self._write_graph()
                backend, trial = self._compare(rival, graph, images, logits)
            except Exception as error:  # noqa: BLE001 - a runtime that nobody asked for may raise anything; torch goes on
                backend, trial = None, Trial(rival.module, None, f"it failed: {str(error)[:200]}")
            self.trials += (trial,)
            if trial.images_per_second is not None and trial.images_per_second > needed:
                self._chosen, needed = backend, trial.images_per_second

    def _compare(self, rival: Rival, graph: bytes, images: Tensor, logits: Tensor) -> tuple[Backend, Trial]:
        precision = self.device.precision
        artefact = Artefact(
            format=rival.format,
            precision=precision,
            spec=self.spec,
            version=metadata.version("inceptionv4"),
            weights="",
            trained_on=self.trained_on,
        )
        backend = rival.open(graph, artefact)
        agreement = compare(logits, backend.infer(images), precision)
        if agrees(agreement, precision):
            return backend, Trial(backend.describe(), _speed(backend.infer, images))
        differs, allowed = agreement.largest_difference, agreement.tolerance
        return backend, Trial(backend.describe(), None, f"a logit differs by {differs:.2g}, allowed are {allowed:.2g}")

    def _write_graph(self) -> bytes:
        from inceptionv4.network.onnx import write_graph

        assert isinstance(self.network, InceptionV4)
        graph: bytes = write_graph(self.network, self.spec.preprocessing.size).SerializeToString()
        return graph


def _is_here(rival: Rival) -> bool:
    return all(importlib.util.find_spec(module) for module in ("onnx", rival.module))


def _speed(infer: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Images a second of the fastest of some answers to a batch that was answered before."""
    seconds: list[float] = []
    while len(seconds) < TIMED_ANSWERS or sum(seconds) < TIMED_SECONDS:
        start = time.perf_counter()
        infer(images)
        seconds.append(time.perf_counter() - start)
    return len(images) / min(seconds)
