"""A .pt2 file: the rewritten network as torch.export sees it, for torch anywhere, without this package's code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from inceptionv4.artefact import Artefact
from inceptionv4.export.draft import Draft
from inceptionv4.inference.backends.pt2 import EXTRA
from inceptionv4.network.layers import InceptionV4
from inceptionv4.network.rewrites import take_pixels


class _FromPixels(nn.Module):
    """uint8 `(B, H, W, 3)` to logits."""

    def __init__(self, network: InceptionV4) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.permute(0, 3, 1, 2).to(torch.float32))
        return logits


def trace(rewritten: InceptionV4, artefact: Artefact) -> Pt2Draft:
    """A rewritten network on the CPU as a graph of torch's operators."""
    size, batch = artefact.spec.preprocessing.size, artefact.batch_size or 2
    module: nn.Module = rewritten
    images = torch.zeros(batch, 3, size, size)
    if artefact.input == "uint8":
        pixels = artefact.spec.preprocessing
        module = _FromPixels(take_pixels(rewritten, pixels.mean, pixels.std))
        images = torch.zeros(batch, size, size, 3, dtype=torch.uint8)
    free = {0: torch.export.Dim("batch")} if artefact.batch_size is None else {}
    with torch.no_grad():
        program = torch.export.export(module.eval(), (images,), dynamic_shapes=(free,))
    program.example_inputs = None  # they would be pickled, and are not needed
    return Pt2Draft(program)


@dataclass(frozen=True)
class Pt2Draft(Draft):
    """A traced graph that is to be a file."""

    program: torch.export.ExportedProgram

    def save(self, artefact: Artefact, path: Path) -> None:
        """Write it with its description."""
        with path.open("wb") as file:
            torch.export.save(self.program, file, extra_files={EXTRA: artefact.to_json()})
