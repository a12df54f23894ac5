"""A trained model whose answers another one learns (arXiv 1503.02531)."""

from __future__ import annotations

import torch
from torch import Tensor

from inceptionv4.errors import UsageError
from inceptionv4.imagenet import canonical
from inceptionv4.runtime.device import Device
from inceptionv4.spec import Preprocessing
from inceptionv4.weights.checkpoint import digest_tensors
from inceptionv4.weights.load import load_model


class Teacher:
    """Answers for the very images that the student sees, mixed ones included ("a good teacher is patient and
    consistent", arXiv 2106.05237).
    """

    def __init__(self, model: str, classes: tuple[str, ...], student: Preprocessing, device: Device) -> None:
        """Raises:
        UsageError: there is no such model, or it has other classes.
        CheckpointError: it is damaged.
        """
        network, checkpoint = load_model(model)
        self.digest = digest_tensors(checkpoint.weights)
        """By which a run that goes on knows its teacher again."""
        if canonical(checkpoint.spec.classes) != canonical(classes):
            raise UsageError(
                f"the teacher {model} answers in other classes than the data have; train a teacher on the same data"
            )
        device.place(network)
        self.network, self.device = network.requires_grad_(False), device
        own = checkpoint.spec.preprocessing

        def planes(values: tuple[float, float, float]) -> Tensor:
            return torch.tensor(values, device=device.device).view(1, 3, 1, 1)

        # The student's normalisation is undone and the teacher's done, in one.
        self._scale = planes(student.std) / planes(own.std)
        self._shift = (planes(student.mean) - planes(own.mean)) / planes(own.std)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The student's input, float32 `(B, 3, H, W)`, to float32 logits `(B, K)`."""
        with self.device.autocast():
            logits: Tensor = self.network(images * self._scale + self._shift)
        return logits.float()
