"""The moving average against its closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inceptionv4.training.optimizer import ModelEma


def test_average_of_weights_and_statistics_equals_the_recurrence() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(network[0].weight, 10.0)
    average = ModelEma(network, decay=0.5)
    weight, variance = 10.0, 1.0
    for step in range(1, 8):
        with torch.no_grad():
            network[0].weight.fill_(float(step))
            network[1].running_var.fill_(float(step * step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        weight = decay * weight + (1 - decay) * step
        variance = decay * variance + (1 - decay) * step * step
    assert average.network[0].weight.item() == pytest.approx(weight, rel=1e-6)
    assert average.network[1].running_var.item() == pytest.approx(variance, rel=1e-6)
    assert not average.network.training


def test_no_decay_follows_exactly() -> None:
    network = nn.Linear(3, 3)
    average = ModelEma(network, decay=0.0)
    with torch.no_grad():
        network.weight.mul_(3)
    average.update()
    assert torch.equal(average.network.weight, network.weight)
