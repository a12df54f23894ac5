"""What a server answers under which path: the page, /predict, the Open Inference Protocol, /metrics."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from torch import Tensor

from inceptionv4.errors import ServingError
from inceptionv4.inference.backends.backend import Backend, GraphBackend
from inceptionv4.serving.limits import Limits
from inceptionv4.serving.metrics import GONE, Measured, Metrics
from inceptionv4.serving.page import load_page
from inceptionv4.serving.protocol import EXTENSIONS, HEADER_LENGTH, PLATFORMS, VERSION, Inference, Protocol
from inceptionv4.serving.service import InferenceService
from inceptionv4.serving.uploads import BodyLimiter, CloseWhileDraining
from inceptionv4.strict_json import to_json

Result = TypeVar("Result")

TOP = 5
"""Classes that /predict names."""


class App:
    """One model behind HTTP. `asgi` is the application; `start` before it is used, `close` after."""

    def __init__(self, backend: Backend, *, name: str, limits: Limits) -> None:
        """Clients call the model `name`."""
        platform = PLATFORMS[backend.metadata.format] if isinstance(backend, GraphBackend) else "pytorch"
        self.protocol = Protocol(
            name,
            backend.spec,
            takes_floats=backend.takes_floats,
            platform=platform,
            most_images=limits.images,
            parameters={"runtime": backend.describe(), "precision": backend.precision},
        )
        self.metrics = Metrics()
        self.service = InferenceService(backend, limits, self.metrics.observe_batch)
        self.metrics.watch_queue(lambda: self.service.batcher.admitted)
        self.uploads = BodyLimiter(limits.upload_bytes)
        self._page = load_page()
        self._version = importlib.metadata.version("inceptionv4")
        self.asgi = Starlette(
            routes=[
                Route("/", self.page),
                Route("/predict", self.predict, methods=["POST"]),
                Route("/metrics", self.figures),
                Route("/v2", self.server_metadata),
                Route("/v2/health/live", self.live),
                Route("/v2/health/ready", self.ready),
                *(
                    route
                    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
                    for route in (
                        Route(model, self.model_metadata),
                        Route(f"{model}/ready", self.model_ready),
                        Route(f"{model}/infer", self.infer, methods=["POST"]),
                    )
                ),
            ],
            middleware=[
                Middleware(Measured, metrics=self.metrics),
                Middleware(CloseWhileDraining, is_draining=lambda: self.service.draining),
            ],
            exception_handlers={
                ServingError: _refused,
                HTTPException: _not_found,
                ClientDisconnect: _gone,
                Exception: _failed,
            },
        )
        self.asgi.router.redirect_slashes = False  # to an address that the client's own Host header would name

    def start(self) -> None:
        """Warm the model up.

        Raises:
            Exception: what the runtime raises at its first answer.
        """
        self.service.batcher.start()

    def drain(self) -> None:
        """Accept nothing more, and refuse what has not come to its end; what was accepted is answered."""
        self.service.draining = True
        self.uploads.cut_off()

    def close(self) -> bool:
        """End the threads; whether all have ended."""
        return self.service.close()

    async def page(self, request: Request) -> Response:
        """GET /: the page for people."""
        headers = {"content-security-policy": self._page.policy, "x-content-type-options": "nosniff"}
        return Response(self._page.content, media_type="text/html", headers=headers)

    async def predict(self, request: Request) -> Response:
        """POST /predict?top=K: the body is an image file; the answer is a line of `inceptionv4 predict --json`."""
        top = _read_top(request)
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise ServingError(415, "the body must be the file itself: curl --data-binary @photo.jpg")
        self.service.check()
        async with self.uploads.receive(request) as body:
            logits = await _unless_gone(request, self.service.in_time(self.service.answer([bytes(body)])))
        best = logits.softmax(1)[0].topk(min(top, logits.shape[1]))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        classes = self.protocol.spec.classes
        return _json({"predictions": [{"class": classes[i], "probability": value} for i, value in pairs]})

    async def figures(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.metrics.expose(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def server_metadata(self, request: Request) -> Response:
        """GET /v2."""
        return _json({"name": "inceptionv4", "version": self._version, "extensions": EXTENSIONS})

    async def live(self, request: Request) -> Response:
        """GET /v2/health/live: this process answers."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """GET /v2/health/ready: the model would answer."""
        return _json({"ready": self.service.is_ready}, 200 if self.service.is_ready else 503)

    async def model_metadata(self, request: Request) -> Response:
        """GET /v2/models/NAME."""
        self._check_model(request)
        return _json(self.protocol.metadata())

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready."""
        self._check_model(request)
        is_ready = self.service.is_ready
        return _json({"name": self.protocol.name, "ready": is_ready}, 200 if is_ready else 503)

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME/infer."""
        self._check_model(request)
        self.service.check()
        async with self.uploads.receive(request) as body:
            header_length = request.headers.get(HEADER_LENGTH)

            async def work() -> tuple[Inference, Tensor]:
                inference = await self.service.decoder.run(self.protocol.read, body, header_length)
                return inference, await self.service.answer(inference.images)

            inference, logits = await _unless_gone(request, self.service.in_time(work()))
        response = self.protocol.write(inference, logits)
        if response.json_bytes is None:
            return Response(response.body, media_type="application/json")
        headers = {HEADER_LENGTH: str(response.json_bytes)}
        return Response(response.body, media_type="application/octet-stream", headers=headers)

    def _check_model(self, request: Request) -> None:
        """A name is compared with the model's own, and is never anything else."""
        if request.path_params["model"] != self.protocol.name:
            raise ServingError(404, f"there is no such model; there is {self.protocol.name}")
        if request.path_params.get("version", VERSION) != VERSION:
            raise ServingError(404, f"there is no such version; there is {VERSION}")


def _read_top(request: Request) -> int:
    given = request.query_params
    if set(given) - {"top"}:
        raise ServingError(400, "the one parameter is top, the number of classes to name")
    text = given.get("top", str(TOP))
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise ServingError(400, "top must be a number from 1 on")
    return int(text[:9])


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` comes to, which is cancelled if the client hangs up before; the request's body was read."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        gone.cancel()


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value).encode(), status, headers, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    return _json({"error": str(error)}, error.status, {"retry-after": "1"} if error.status == 503 else None)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


async def _failed(request: Request, error: Exception) -> Response:
    return _json({"error": "the server failed; its log says how"}, 500)
