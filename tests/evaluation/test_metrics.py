"""Metrics against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score

from inceptionv4.evaluation.metrics import Sums


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_metrics_equal_scikit_learns_however_batched(batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(100, 12, generator=generator), torch.randint(12, (100,), generator=generator)
    sums = Sums()
    for part, truth in zip(logits.split(batch), labels.split(batch), strict=True):
        sums.add(part, truth)
    metrics = sums.divide()
    probabilities = logits.double().softmax(1).numpy()
    assert metrics.images == 100
    assert metrics.top1 == pytest.approx(top_k_accuracy_score(labels, logits, k=1), abs=1e-12)
    assert metrics.top5 == pytest.approx(top_k_accuracy_score(labels, logits, k=5), abs=1e-12)
    assert metrics.loss == pytest.approx(log_loss(labels, probabilities, labels=np.arange(12)), rel=1e-6)


def test_fewer_than_five_classes() -> None:
    sums = Sums()
    sums.add(torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), torch.tensor([2, 2]))
    metrics = sums.divide()
    assert (metrics.top1, metrics.top5) == (0.5, 1.0)


def test_nothing_counted_is_an_error() -> None:
    with pytest.raises(ValueError, match="no images"):
        Sums().divide()
