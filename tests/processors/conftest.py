"""The device under test: this CPU, and the accelerator that torch finds."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(
    params=[
        pytest.param("cpu", marks=pytest.mark.isa),
        pytest.param("accelerator", marks=pytest.mark.accelerator),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    """The name of the device under test."""
    if request.param == "cpu":
        return "cpu"
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        pytest.skip("no accelerator here")
    return str(found)
