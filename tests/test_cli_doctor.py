"""What the installation can do, as it says itself."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest

from inceptionv4.inference.runtimes import RUNTIMES


def test_runtimes_and_versions(command: Callable[..., Any]) -> None:
    result = command("doctor", "--json")
    assert result.code == 0
    health = json.loads(result.out)
    assert list(health["runtimes"]) == [runtime.name for runtime in RUNTIMES]
    assert health["runtimes"]["onnxruntime"]["missing"] is None
    assert "acl or ais_bench is not installed: install CANN" in health["runtimes"]["ascend"]["missing"]
    assert "untested on hardware" in health["runtimes"]["ascend"]["tested"]
    assert health["packages"]["torch"] == metadata.version("torch")


def test_what_is_not_there_is_named(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else real(name))
    out = command("doctor").out
    assert "openvino is not installed: pip install 'inceptionv4[openvino]'" in out
    assert "computes on" in out
