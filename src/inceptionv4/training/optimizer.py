"""Optimizers and their parameter groups, the EMA of the weights, and stages that stay frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from inceptionv4.config import OptimizerConfig
from inceptionv4.errors import ConfigError
from inceptionv4.network.architecture import STAGES
from inceptionv4.network.layers import InceptionV4
from inceptionv4.settings import did_you_mean


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
    return len(STAGE_NAMES) - STAGE_NAMES.index(stage) if room == "features" else 0


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


STAGE_NAMES = tuple(stage.name for stage in STAGES)


def frozen_stages(text: str | None) -> tuple[str, ...]:
    """The stages that `training.freeze` names: one, or a range such as `stem..reduction_a`, both ends included.

    Raises:
        ConfigError: there is no such stage, or the range runs backwards.
    """
    if text is None:
        return ()
    first, _, last = text.partition("..")
    places = []
    for name in (first, last or first):
        if name not in STAGE_NAMES:
            raise ConfigError(f"training.freeze names no stage with {name!r}; {did_you_mean(name, STAGE_NAMES)}")
        places.append(STAGE_NAMES.index(name))
    if places[0] > places[1]:
        raise ConfigError(f"training.freeze runs from the image to the classifier, got {text!r}")
    return STAGE_NAMES[places[0] : places[1] + 1]


def freeze(network: InceptionV4, stages: tuple[str, ...]) -> None:
    """Exclude the stages from training, for good."""
    for stage in stages:
        network.features.get_submodule(stage).requires_grad_(False)


def train_mode(network: InceptionV4, stages: tuple[str, ...]) -> None:
    """Set training mode, except for frozen stages, whose norms keep their running statistics."""
    network.train()
    for stage in stages:
        network.features.get_submodule(stage).eval()
