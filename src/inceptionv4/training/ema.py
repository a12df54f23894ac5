"""Exponential moving average (EMA) of a network's weights, which generalises better than those of any single step."""

from __future__ import annotations

import copy

import torch
from torch import nn


class ModelEma:
    """A copy of `network` that follows it: after each step, average <- decay * average + (1 - decay) * weights.

    Running statistics of norms are averaged like weights. The decay rises as (1 + step) / (10 + step) up to `decay`
    (tf.train.ExponentialMovingAverage's `num_updates`), so that the random first weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0
        ours, theirs = self.network.state_dict(), network.state_dict()
        names = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        self._averages = [ours[name] for name in names]
        self._weights = [theirs[name] for name in names]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the network after an optimizer step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
