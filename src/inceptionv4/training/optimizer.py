"""Optimizers: which weights decay, and RMSprop as TensorFlow defines it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from inceptionv4.config import OptimizerConfig
from inceptionv4.training.freeze import NAMES


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` names, at its peak learning rate, over the groups of `parameter_groups`."""
    groups = parameter_groups(network, config.weight_decay, config.layer_decay)
    if config.name == "rmsprop":
        return RMSpropTF(groups, lr=config.lr, decay=config.decay, momentum=config.momentum, eps=config.eps)
    if config.name == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def parameter_groups(network: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """The parameters that are trained, by whether they decay and by how fast they learn.

    Weights of convolutions and of the classifier decay; norms and biases, all vectors, do not. `lr_scale` of a group
    is `layer_decay` to the power of its stages' distance from the classifier, whose own is one.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            scale = layer_decay ** _distance(name) if layer_decay < 1 else 1.0
            groups.setdefault((scale, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
        for (scale, decays), parameters in groups.items()
    ]


def _distance(name: str) -> int:
    """How many stages a parameter lies before the classifier."""
    room, stage, *_ = name.split(".")
    return len(NAMES) - NAMES.index(stage) if room == "features" else 0


class RMSpropTF(torch.optim.Optimizer):
    """RMSprop as in TensorFlow, with which the paper's network was trained (arXiv 1602.07261, section 4).

    For a gradient g, with weight decay added to it:

        square   <- decay * square + (1 - decay) * g^2          square starts at one
        velocity <- momentum * velocity + lr * g / sqrt(square + eps)
        weight   <- weight - velocity

    torch's own starts the mean square at zero, adds eps outside the root and applies the learning rate after the
    momentum. At the paper's eps of 1.0 that is another algorithm.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["square"] = torch.ones_like(weight)
                    self.state[weight]["velocity"] = torch.zeros_like(weight)
            gradients: list[Tensor] | tuple[Tensor, ...] = [weight.grad for weight in weights]
            squares = [self.state[weight]["square"] for weight in weights]
            velocities = [self.state[weight]["velocity"] for weight in weights]
            if group["weight_decay"]:
                gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(squares, group["decay"])
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["decay"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_addcdiv_(velocities, gradients, roots, value=group["lr"])
            torch._foreach_sub_(weights, velocities)
        return loss
