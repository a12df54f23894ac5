"""`inceptionv4 serve`: a model behind HTTP."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from inceptionv4.cli.console import say
from inceptionv4.config import PrecisionOption, RuntimeOption
from inceptionv4.errors import Error, UsageError
from inceptionv4.serving.limits import Limits

if TYPE_CHECKING:
    from inceptionv4.inference.backends.backend import Backend
    from inceptionv4.serving.app import App

NEEDED = ("starlette", "uvicorn", "prometheus_client")


def serve(
    model: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = "inceptionv4",
    device: str = "auto",
    precision: PrecisionOption | None = None,
    runtime: RuntimeOption | None = None,
    queue: int = Limits.queue,
    timeout: float = Limits.timeout_seconds,
    max_upload: int = Limits.upload_bytes // 2**20,
) -> None:
    """Answer over HTTP: a web page, POST /predict, the Open Inference Protocol, metrics; until SIGTERM or Ctrl-C.

    Parameters
    ----------
    model
        Any model that predict takes: a run folder, weights, an exported file.
    host
        Whose requests are taken: 127.0.0.1 is this machine's alone, 0.0.0.0 everybody's.
    port
        0 takes a free one.
    name
        What clients call the model, as in /v2/models/NAME.
    device
        auto, cpu, or a device of torch's.
    precision
        fp32 for weights if not given; bf16, fp16, or auto: bf16 where device and runtime compute in it, else fp32.
    runtime
        torch for weights if not given; onnxruntime, openvino, or auto: the fastest, by a trial at the start.
    queue
        Images that may wait; beyond, clients are told to try again.
    timeout
        Seconds after which a request that still waits is given up.
    max_upload
        MiB that one request may have.
    """
    if missing := [module for module in NEEDED if importlib.util.find_spec(module) is None]:
        raise UsageError(f"{', '.join(missing)} is not installed: pip install 'inceptionv4[serve]'")
    for option, value in (("--queue", queue), ("--timeout", timeout), ("--max-upload", max_upload)):
        if not 0 < value < 2**20:
            raise UsageError(f"{option} must be above 0 and below {2**20:,}, got {value}")
    if not name or any(letter in "/?#%" or not letter.isprintable() for letter in name):
        raise UsageError(f"--name must be one part of an address, got {name!r}")

    from inceptionv4.inference.runtimes import open_backend
    from inceptionv4.runtime.process import leave_threads_behind
    from inceptionv4.serving.app import App
    from inceptionv4.serving.server import address_of, bind
    from inceptionv4.serving.server import serve as run_server

    with bind(host, port) as bound:  # before the model, which may take minutes to load
        backend = open_backend(model, device=device, precision=precision, runtime=runtime)
        say(f"{model}: {len(backend.spec.classes)} classes, {backend.spec.preprocessing.describe()}")
        say("warming up")
        app = App(backend, name=name, limits=Limits(queue, timeout, max_upload * 2**20))
        try:
            _warm_up(app, backend)
            say(f"on {backend.describe()}, up to {backend.batch_size} images at once")
            address = address_of(bound)
            run_server(app, bound, lambda: say(f"ready: {address}, {address}/v2/models/{name}"))
        finally:
            if not app.close():
                leave_threads_behind()


def _warm_up(app: App, backend: Backend) -> None:
    from inceptionv4.serving.server import start

    try:
        start(app)
    except Error:
        raise
    except Exception as error:  # whatever a runtime raises at its first answer
        reason = " ".join(str(error).split())[:300]
        raise Error(f"the model cannot answer on {backend.describe()}: {reason}; try --device cpu") from error
