"""What a server counts, in Prometheus' words."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
GONE = 499
"""The status, nginx's own, of a request whose client hung up."""


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def name(of: str) -> str:
            return f"inceptionv4_{of}"

        self.requests = Counter(
            name("requests"), "Requests, by endpoint and HTTP status.", ("endpoint", "status"), registry=self.registry
        )
        self.request_seconds = Histogram(
            name("request_seconds"),
            "From a request's head to the end of its response.",
            ("endpoint",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_images = Histogram(
            name("batch_images"), "Images that the model answered at once.", buckets=IMAGES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            name("batch_seconds"), "What the model took for a batch.", buckets=SECONDS, registry=self.registry
        )
        self.images = Counter(name("images"), "Images that the model answered.", registry=self.registry)
        self.queue = Gauge(
            name("queue_images"), "Images that were accepted and are not answered yet.", registry=self.registry
        )

    def observe_batch(self, images: int, seconds: float) -> None:
        """Count a batch; called in the model's thread."""
        self.images.inc(images)
        self.batch_images.observe(images)
        self.batch_seconds.observe(seconds)

    def watch_queue(self, length: Callable[[], float]) -> None:
        """Ask `length` whenever the figures are asked for."""
        self.queue.set_function(length)

    def expose(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


class Measured:
    """Middleware: each request counts under its endpoint, never its path, of which a client can make up any number."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            self.metrics.requests.labels(endpoint, status).inc()
            self.metrics.request_seconds.labels(endpoint).observe(time.perf_counter() - start)
