"""What the installation can do, as it says itself."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest

from inceptionv4.inference.backends import openvino as backend
from inceptionv4.inference.backends.openvino import core
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
    here = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    missing = [f"openvino in {name.lower()}" for name in ("BF16", "FP16") if name not in here]
    # A processor with AVX-512 alone emulates bf16, and so vouches for it without offering it.
    assert health["unverified"] in (["air", "om", *missing], ["air", "om", *missing[1:]])
    assert ("openvino in fp16" in health["unverified"]) == ("openvino in fp16" in missing)


def test_what_is_not_there_is_named(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else real(name))
    monkeypatch.setitem(sys.modules, "openvino", None)
    for cached in ("core", "computes"):
        monkeypatch.setattr(backend, cached, getattr(backend, cached).__wrapped__)
    out = command("doctor").out
    assert "exported unverified, as nothing here runs them: air, om\n" in out
    assert "openvino is not installed: pip install 'inceptionv4[openvino]'" in out
    assert "trains on" in out
