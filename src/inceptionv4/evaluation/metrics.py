"""Accuracy and loss as sums and counts, which add up over batches and processes, divided last."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Metrics:
    """Shares of images whose label is the first, or among the first five, and the mean cross entropy, over `images`.

    With fewer than five classes, top-5 counts all of them and is 1.
    """

    top1: float
    top5: float
    loss: float
    images: int

    def __str__(self) -> str:
        return f"top-1 {self.top1:.2%}  top-5 {self.top5:.2%}  loss {self.loss:.4f}  ({self.images:,} images)"


class Sums:
    """What `Metrics` are made of: how many images, how many right, how much loss, in float64."""

    def __init__(self) -> None:
        self.values = torch.zeros(4, dtype=torch.float64)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits `(B, classes)` of any float type, labels int64 `(B,)`."""
        ranked = logits.topk(min(5, logits.shape[1])).indices.eq(labels[:, None])
        # In float64: of finite float32 logits, the loss is finite, too.
        loss = torch.nn.functional.cross_entropy(logits.cpu().double(), labels.cpu(), reduction="sum")
        self.values += torch.tensor([len(labels), ranked[:, 0].sum(), ranked.sum(), loss], dtype=torch.float64)

    def divide(self) -> Metrics:
        """The means over all that was counted.

        Raises:
            ValueError: nothing was.
        """
        images, top1, top5, loss = self.values.tolist()
        if not images:
            raise ValueError("no images were counted")
        return Metrics(top1=top1 / images, top5=top5 / images, loss=loss / images, images=int(images))
