"""Which runtime is the fastest for a model on this machine, by a trial; and a hint for those who did not ask.

`open_fastest` opens what `--runtime auto` stands for. `HintedProgress` shows a line after 1,000 images, if options
would make the rest much faster.
"""

from __future__ import annotations

import importlib.util
import time

from torch import Tensor

from inceptionv4.config import PrecisionOption, RuntimeName
from inceptionv4.data.index import DIGITS, read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.data.photographs import load_photographs
from inceptionv4.errors import UsageError
from inceptionv4.inference.agreement import Reference
from inceptionv4.inference.backends.backend import Backend, RuntimeSpeed
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.inference.open_weights import NAMES, Weights
from inceptionv4.network.layers import InceptionV4
from inceptionv4.printable import note
from inceptionv4.runtime.launcher import read_launch
from inceptionv4.runtime.progress import Progress
from inceptionv4.spec import ModelSpec

OTHERS: tuple[RuntimeName, ...] = ("onnxruntime", "openvino")
GAIN = 1.05
"""`auto` leaves PyTorch only for a runtime that is this many times as fast, so that chance does not decide."""
HINT_GAIN = 1.5
"""A hint names options that make answers at least this many times as fast."""
HINT_AFTER = 1000
"""A hint takes seconds to measure; a run of more images than these pays for it."""
TIMED_SECONDS = 0.5
"""A trial times a runtime for at least so long, or one batch."""


def open_fastest(weights: Weights, precision: PrecisionOption) -> Backend:
    """The model in the fastest runtime. The trial is printed on standard error.

    Raises:
        UsageError: no such device, or it does not compute in this precision; one of several processes asks.
    """
    if read_launch().count > 1:
        raise UsageError("--runtime auto is for one process: each of several could choose another; name one, or none")
    backend, trials = try_runtimes(weights, precision)
    size = weights.spec.preprocessing.size
    note(f"trial on {backend.batch_size} images of {size} px:", *(f"  {trial}" for trial in trials))
    backend.trials = trials
    return backend


def try_runtimes(weights: Weights, precision: PrecisionOption) -> tuple[Backend, tuple[RuntimeSpeed, ...]]:
    """The fastest runtime whose answers agree with PyTorch's in fp32, as an exported file's must, and all trials.

    Each is timed on a batch of the package's digits and compared on its photographs, prepared as the model's own
    preprocessing says. PyTorch is the first of the trials.
    """
    best = weights.open("torch", precision)
    images = trial_images(weights.spec, best.batch_size)
    photographs = load_photographs(weights.spec.preprocessing)
    preprocessing = weights.spec.preprocessing
    reference = Reference(weights.rewritten, photographs, preprocessing, coloured=len(photographs))
    best.infer(images)
    speed = measure_speed(best, images)
    trials, needed = [RuntimeSpeed(best.describe(), speed)], GAIN * speed
    for runtime in OTHERS:
        if importlib.util.find_spec(runtime) is None:
            continue
        try:
            backend = weights.open(runtime, precision)
            trial = _try(backend, images, reference)
        except Exception as error:  # noqa: BLE001 - a runtime that nobody named may raise anything; the others go on
            trials.append(RuntimeSpeed(NAMES[runtime], None, f"not used: {' '.join(str(error).split())[:200]}"))
            continue
        trials.append(trial)
        if trial.images_per_second is not None and trial.images_per_second >= needed:
            best, needed = backend, trial.images_per_second
        del backend
    return best, tuple(trials)


class HintedProgress:
    """Counts images like `Progress`, and after the first 1,000 shows a line on faster options, if there are any.

    `progress` counts one of `processes` that share the images.
    """

    def __init__(self, progress: Progress, backend: Backend, processes: int = 1) -> None:
        self._progress, self._backend, self._left = progress, backend, HINT_AFTER // processes

    def advance(self, images: int) -> None:
        """Count `images` more."""
        self._progress.advance(images)
        if self._left >= 0 > self._left - images and (line := speed_hint(self._backend)):
            self._progress.announce(line)
        self._left -= images


def speed_hint(backend: Backend) -> str | None:
    """Options that make a model answer at least 1.5 times as fast on this machine, in a line; None if there are none.

    `backend` is one that `Weights.open` opened in fp32. It goes on as before: this measures, and never raises.
    """
    if not isinstance(backend, TorchBackend) or not isinstance(backend.network, InceptionV4):
        return None
    weights = Weights(backend.network, backend.spec, backend.trained_on, str(backend.device.device))
    try:
        own = measure_speed(backend, trial_images(backend.spec, backend.batch_size))
        fastest, trials = try_runtimes(weights, "auto")
    except Exception:  # noqa: BLE001 - nobody asked for it, and the answers are not to end for it
        return None
    speed = next(trial.images_per_second for trial in trials if trial.runtime == fastest.describe()) or 0.0
    if speed < HINT_GAIN * own:
        return None
    options = [f"--runtime {fastest.runtime}"] if fastest.runtime != "torch" else []
    options += [f"--precision {fastest.precision}"] if fastest.precision != "fp32" else []
    return f"{' '.join(options)} would be {speed / own:.1f} times as fast here (a trial of {fastest.describe()})"


def measure_speed(backend: Backend, images: Tensor) -> float:
    """Images a second of the fastest of some answers to a batch; `backend` has answered before."""
    seconds: list[float] = []
    while not seconds or sum(seconds) < TIMED_SECONDS:
        start = time.perf_counter()
        backend.infer(images)
        seconds.append(time.perf_counter() - start)
    return len(images) / min(seconds)


def trial_images(spec: ModelSpec, count: int) -> Tensor:
    """Digits of the package, uint8 `(count, 3, size, size)`, prepared as the model's own preprocessing says."""
    digits = evaluation_batches(read_dataset(DIGITS).val, spec.preprocessing, batch_size=count, workers=0)
    return next(iter(digits)).images


def _try(backend: Backend, images: Tensor, reference: Reference) -> RuntimeSpeed:
    agreement = reference.compare(backend.infer(reference.images), backend.precision)
    if agreement.refusal is not None:
        return RuntimeSpeed(backend.describe(), None, f"not used: {agreement.refusal}")
    backend.infer(images)
    return RuntimeSpeed(backend.describe(), measure_speed(backend, images))
