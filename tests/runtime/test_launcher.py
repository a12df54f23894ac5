"""What the environment says of several processes: as torchrun says it, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from inceptionv4.errors import UsageError
from inceptionv4.runtime.device import select_device
from inceptionv4.runtime.launcher import Launch, read_launch

MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TOLD = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **MEETING}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "launch"),
    [
        ({}, Launch()),
        (MEETING, Launch()),
        ({"WORLD_SIZE": "1"}, Launch()),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, Launch()),
        (TOLD, Launch(3, 4, 1, 2)),
        ({"RANK": "3", "WORLD_SIZE": "4", **MEETING}, Launch(3, 4)),  # a process a machine, as of Kubeflow's PyTorchJob
    ],
)
def test_what_is_understood(variables: dict[str, str], launch: Launch) -> None:
    assert read_launch(variables) == launch


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"WORLD_SIZE": None}, "RANK is set and WORLD_SIZE is not"),
        ({"WORLD_SIZE": None, "RANK": None}, "LOCAL_RANK is set and WORLD_SIZE is not"),
        ({"WORLD_SIZE": None, "RANK": None, "LOCAL_RANK": None}, "LOCAL_WORLD_SIZE is set and WORLD_SIZE is not"),
        ({"RANK": None}, "WORLD_SIZE is 4, but not all are set that go with it: RANK missing"),
        ({"MASTER_ADDR": None, "MASTER_PORT": ""}, "go with it: MASTER_ADDR, MASTER_PORT missing"),
        ({"RANK": "4"}, "RANK is 4, and WORLD_SIZE is 4, so that the last one is number 3"),
        ({"RANK": "-1"}, "RANK must be a number from 0 on, got '-1'"),
        ({"RANK": "one"}, "RANK must be a number from 0 on, got 'one'"),
        ({"RANK": "1.0"}, "RANK must be a number from 0 on, got '1.0'"),
        ({"RANK": " 1"}, "RANK must be a number from 0 on, got ' 1'"),
        ({"RANK": "٣"}, "RANK must be a number from 0 on"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a number from 1 on, got '0'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE must be a number from 1 on, got ''"),
        ({"WORLD_SIZE": "1"}, "RANK is 3, and WORLD_SIZE is 1"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2, and LOCAL_WORLD_SIZE is 2"),
        ({"LOCAL_RANK": "4", "LOCAL_WORLD_SIZE": None}, "LOCAL_RANK is 4, and WORLD_SIZE is 4"),
        ({"LOCAL_RANK": "cuda"}, "LOCAL_RANK must be a number from 0 on, got 'cuda'"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE must be a number from 1 on, got '0'"),
        ({"LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE is 8, and WORLD_SIZE 4"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT must be a number from 1 to 65535, got '0'"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT must be a number from 1 to 65535, got 'http'"),
    ],
)
def test_what_is_refused(changes: dict[str, str | None], reason: str) -> None:
    variables = {name: value for name, value in {**TOLD, **changes}.items() if value is not None}
    with pytest.raises(UsageError) as error:
        read_launch(variables)
    assert reason in str(error.value)
    assert "start by torchrun, or unset RANK" in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--data", "digits"),
        ("evaluate", "no/model", "--data", "digits"),
        ("predict", "no/model", "no.jpg"),
        ("data", "inspect", "digits"),
        ("export", "no/model", "--format", "onnx"),
        ("serve", "no/model"),
        ("convert", "no/model", "to.safetensors"),
        ("doctor",),
    ],
)
def test_every_command_refuses_it(
    arguments: tuple[str, ...], command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`RANK=1` alone made a process silent that had nobody to speak for it."""
    monkeypatch.setenv("RANK", "1")
    result = command(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: RANK is set and WORLD_SIZE is not; torchrun sets ")
    assert command(arguments[0], "--help").code == 0


def test_more_processes_than_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TOLD, "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    with pytest.raises(
        UsageError, match="this is process 4 on this machine, which has 2 accelerators; start 2 processes"
    ):
        select_device()
