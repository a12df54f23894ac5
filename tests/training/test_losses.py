"""Losses against torch's own and against their definitions; a batch in parts against the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from inceptionv4.config import LossConfig
from inceptionv4.data.index import read_dataset
from inceptionv4.data.samples import Samples
from inceptionv4.runtime.device import select_device
from inceptionv4.training.losses import Loss, class_weights
from inceptionv4.training.train_step import parts

WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1])


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 4 * torch.randn(7, 5, generator=generator), torch.randint(5, (7,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs(smoothing: float, weights: torch.Tensor | None) -> None:
    logits, labels = example()
    loss = Loss(LossConfig(smoothing=smoothing), 5, weights)
    targets = loss.targets(labels)
    ours = loss(logits, targets) / loss.weight(labels)
    torch.testing.assert_close(ours, cross_entropy(logits, labels, weights, label_smoothing=smoothing))


def test_mixed_targets_are_torchs_too() -> None:
    logits, labels = example()
    loss = Loss(LossConfig(smoothing=0.0), 5)
    mixed = 0.3 * loss.targets(labels) + 0.7 * loss.targets(labels.flip(0))
    expected = 0.3 * cross_entropy(logits, labels) + 0.7 * cross_entropy(logits, labels.flip(0))
    torch.testing.assert_close(loss(logits, mixed) / loss.weight(labels), expected)


def test_binary_cross_entropy_is_torchs() -> None:
    logits, labels = example()
    loss = Loss(LossConfig(name="bce", smoothing=0.1), 5)
    targets = loss.targets(labels)
    expected = binary_cross_entropy_with_logits(logits, targets * 0.9 + 0.02)
    torch.testing.assert_close(loss(logits, targets) / loss.weight(labels), expected)
    weighted = Loss(LossConfig(name="bce", smoothing=0.0), 5, WEIGHTS)
    each = binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    torch.testing.assert_close(weighted(logits, targets), (each * WEIGHTS[labels]).sum())


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_is_its_definition(gamma: float) -> None:
    logits, labels = example()
    loss = Loss(LossConfig(name="focal", smoothing=0.0, focal_gamma=gamma), 5)
    targets = loss.targets(labels)
    p = logits.double().softmax(1)[torch.arange(7), labels]
    expected = -((1 - p) ** gamma * p.log()).sum().float()
    torch.testing.assert_close(loss(logits, targets), expected)
    if gamma == 0:
        torch.testing.assert_close(expected, cross_entropy(logits, labels, reduction="sum"))


def test_a_focal_loss_of_a_certain_answer_has_a_gradient() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = Loss(LossConfig(name="focal", smoothing=0.0, focal_gamma=0.5), 2)
    loss(logits, loss.targets(torch.tensor([1]))).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["cross_entropy", "bce", "focal"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_parts_add_up_to_the_whole(name: Any, weights: torch.Tensor | None) -> None:
    logits, labels = example()
    loss = Loss(LossConfig(name=name), 5, weights)
    targets = loss.targets(labels)
    gradients = []
    for count in (1, 3):
        leaf = logits.clone().requires_grad_()
        for part in parts(7, count):
            (loss(leaf[part], targets[part]) / loss.weight(labels)).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("images", range(1, 40))
@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_parts_cover_a_batch_and_none_is_a_single_image(images: int, count: int) -> None:
    covered = [index for part in parts(images, count) for index in range(images)[part]]
    assert covered == list(range(images))
    sizes = [part.stop - part.start for part in parts(images, count)]
    assert min(sizes) >= min(2, images)
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == max(min(count, images // 2), 1)


def test_class_weights_are_scikit_learns(textures: Path) -> None:
    samples = read_dataset(textures).train
    labels = np.repeat(np.arange(3, dtype=np.int32), (120, 50, 10))
    uneven = Samples(samples.source, samples.rows, labels, (*samples.classes, "never seen"))
    weights = class_weights(uneven, LossConfig(class_weights="balanced"), select_device("cpu"))
    assert weights is not None
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert weights.tolist() == pytest.approx([*expected, 0.0])
    assert class_weights(uneven, LossConfig(), select_device("cpu")) is None
