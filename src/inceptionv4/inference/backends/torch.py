"""PyTorch: the network itself, rewritten to answer fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inceptionv4.data.transforms import normalize
from inceptionv4.export_metadata import Precision
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.network.inference_graph import build_inference_graph
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import Device
from inceptionv4.spec import ModelSpec

Mode = Literal["eager", "rewritten", "compiled"]


class TorchBackend(Backend):
    """The network on a torch device: `eager` as it is given, `rewritten`, or that and compiled."""

    runtime = "torch"

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        device: Device,
        *,
        mode: Mode = "rewritten",
        trained_on: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(spec, trained_on or {})
        self.device = device
        self.batch_size = 16 if device.device.type == "cpu" else 128
        self.network = network.eval()
        if mode != "eager":
            assert isinstance(network, InceptionV4)
            self.network = build_inference_graph(network)
        device.place(self.network)
        if mode == "compiled":
            self.network.compile(dynamic=False)

    @property
    def precision(self) -> Precision:
        return self.device.precision

    @torch.inference_mode()
    def infer(self, images: Tensor) -> Tensor:
        return self._prepared(images, self.network)

    @property
    def num_features(self) -> int:
        """Length of the features that `embed` gives."""
        assert isinstance(self.network, InceptionV4)
        return self.network.num_features

    @torch.inference_mode()
    def embed(self, images: Tensor) -> Tensor:
        """Pooled features before the classifier: float32 `(B, features)`, of images as `infer` takes them."""
        assert isinstance(self.network, InceptionV4)
        return self._prepared(images, self.network.embed)

    @torch.inference_mode()
    def classify(self, features: Tensor) -> Tensor:
        """Logits, as `infer` gives them, of features that `embed` gave."""
        with self.device.autocast():
            logits: Tensor = self.network.classifier(features.to(self.device.device))  # type: ignore[operator]
        return logits.float().cpu()

    def _prepared(self, images: Tensor, answer: Any) -> Tensor:
        images = images.to(self.device.device)
        if images.dtype == torch.uint8:
            images = normalize(images, self.spec.preprocessing)
        images = images.contiguous(memory_format=self.device.memory_format)
        with self.device.autocast():
            output: Tensor = answer(images)
        return output.float().cpu()

    def describe(self) -> str:
        return f"PyTorch, {self.device.describe()}"
