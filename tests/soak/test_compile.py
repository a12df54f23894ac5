"""A compiled network learns what the plain one does. Compiling takes minutes on few cores."""

from __future__ import annotations

import copy

import pytest
import torch

from inceptionv4.network.layers import InceptionV4
from inceptionv4.training.learner import compile_network


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, while it traces
@pytest.mark.parametrize("how", ["blocks", "full"])
def test_a_compiled_network_has_the_gradients_of_the_plain_one(how: str) -> None:
    torch.manual_seed(0)
    plain = InceptionV4(3, width=0.1, dropout=0.0)
    compiled = copy.deepcopy(plain)
    compile_network(compiled, how)
    images = torch.randn(4, 3, 75, 75)
    for network in (plain, compiled):
        network(images).square().sum().backward()
    assert list(plain.state_dict()) == list(compiled.state_dict())
    for (name, ours), theirs in zip(compiled.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3, msg=name)
    for (name, buffer), other in zip(compiled.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-4, atol=1e-4, msg=name)
