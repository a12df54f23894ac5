"""RMSprop against TensorFlow's recurrence written out for one number; decay against what must not decay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from inceptionv4.config import OptimizerConfig
from inceptionv4.network.layers import InceptionV4
from inceptionv4.training.optimizer import RMSpropTF, build_optimizer, parameter_groups


def recurrence(
    weight: float, gradients: list[float], lr: float, decay: float, momentum: float, eps: float, weight_decay: float
) -> float:
    """tf.compat.v1.train.RMSPropOptimizer, by hand, in Python's floats."""
    square, velocity = 1.0, 0.0
    for gradient in gradients:
        gradient += weight_decay * weight
        square = decay * square + (1 - decay) * gradient * gradient
        velocity = momentum * velocity + lr * gradient / math.sqrt(square + eps)
        weight -= velocity
    return weight


@pytest.mark.parametrize("eps", [1.0, 1e-3, 1e-10])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_tensorflows(eps: float, weight_decay: float, momentum: float) -> None:
    gradients = [3.0, -0.5, 0.01, 20.0, -7.0]
    weights = torch.tensor([1.5, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = RMSpropTF([weights], lr=0.045, decay=0.9, momentum=momentum, eps=eps, weight_decay=weight_decay)
    for gradient in gradients:
        weights.grad = torch.tensor([gradient, -2 * gradient], dtype=torch.float64)
        optimizer.step()
    expected = [
        recurrence(1.5, gradients, 0.045, 0.9, momentum, eps, weight_decay),
        recurrence(-2.0, [-2 * gradient for gradient in gradients], 0.045, 0.9, momentum, eps, weight_decay),
    ]
    assert weights.tolist() == pytest.approx(expected, rel=1e-12)


def test_torchs_rmsprop_is_another_algorithm() -> None:
    ours, theirs = (torch.tensor([1.0], requires_grad=True) for _ in range(2))
    for weights, optimizer in (
        (ours, RMSpropTF([ours], lr=0.1, eps=1.0)),
        (theirs, torch.optim.RMSprop([theirs], lr=0.1, alpha=0.9, momentum=0.9, eps=1.0)),
    ):
        weights.grad = torch.tensor([0.5])
        optimizer.step()
    assert abs(ours.item() - theirs.item()) > 1e-3


def test_norms_and_biases_do_not_decay() -> None:
    network = InceptionV4(5, width=0.1)
    decayed, exempt = parameter_groups(network, 0.1)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert all(".conv." in names[id(p)] or names[id(p)] == "classifier.weight" for p in decayed["params"])
    assert all(".norm." in names[id(p)] or names[id(p)] == "classifier.bias" for p in exempt["params"])
    assert len(decayed["params"]) + len(exempt["params"]) == len(names)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "sgd"])
def test_only_weight_decay_moves_weights_without_gradient(name: str) -> None:
    layer = nn.Linear(2, 2)  # of no stage
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = build_optimizer(layer, OptimizerConfig(name=name, lr=0.1, weight_decay=0.5))  # type: ignore[arg-type]
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert (layer.weight.abs() < before[0].abs()).all()
    assert torch.equal(layer.bias, before[1])


def test_earlier_stages_learn_more_slowly() -> None:
    network = InceptionV4(5, width=0.1)
    groups = parameter_groups(network, 0.1, layer_decay=0.5)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    names = [stage for stage, _ in network.features.named_children()]
    for name, parameter in network.named_parameters():
        place = names.index(name.split(".")[1]) if name.startswith("features.") else len(names)
        assert scales[id(parameter)] == 0.5 ** (len(names) - place), name
    assert len(scales) == len(list(network.parameters()))
