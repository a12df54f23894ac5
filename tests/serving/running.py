"""A server of this process, in a thread, and what clients of it need."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import torch
from torch import Tensor

from inceptionv4.inference.backends.backend import Backend
from inceptionv4.serving.app import App
from inceptionv4.serving.limits import Limits
from inceptionv4.serving.server import Server, bind
from inceptionv4.spec import ModelSpec, Preprocessing


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    app: App
    port: int
    server: Server

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
        finally:
            connection.close()

    def infer(self, request: Any, headers: dict[str, str] | None = None) -> Reply:
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        return self.ask("POST", "/v2/models/inceptionv4/infer", body, headers)

    def figure(self, line: str) -> float:
        """Of the metrics."""
        text = self.ask("GET", "/metrics").body.decode()
        return next((float(row.split()[-1]) for row in text.splitlines() if row.startswith(f"{line} ")), 0.0)


@contextlib.contextmanager
def serving(backend: Backend, **limits: Any) -> Iterator[Running]:
    app = App(backend, name="inceptionv4", limits=Limits(**limits))
    app.start()
    bound = bind("127.0.0.1", 0)
    port, ready = bound.getsockname()[1], threading.Event()
    server = Server(app, ready.set)
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        assert ready.wait(10)
        yield Running(app, port, server)
    finally:
        server.should_exit = True
        thread.join(30)
        app.close()
        assert not thread.is_alive()


class MeanBackend(Backend):
    """Answers an image with three numbers that follow from its mean; what else happens is up to a test."""

    runtime, precision = "test", "fp32"

    def __init__(self, batch_size: int = 4) -> None:
        preprocessing = Preprocessing(size=75, crop=1.0)
        super().__init__(ModelSpec(classes=("low", "middle", "high"), width=0.1, preprocessing=preprocessing), {})
        self.batch_size = batch_size
        self.batches: list[int] = []
        self.free = threading.Event()
        """Cleared: the model is busy until it is set."""
        self.free.set()
        self.before: Callable[[Tensor], None] = lambda images: None

    def infer(self, images: Tensor) -> Tensor:
        assert self.free.wait(30)
        self.before(images)
        self.batches.append(len(images))
        return self.expected(images)

    def expected(self, images: Tensor) -> Tensor:
        means = images.float().mean((1, 2, 3))
        return torch.stack([means / 100, means / 50, means / 25], 1)

    def describe(self) -> str:
        return "a test"
