"""Devices: what is chosen, what is refused, and that hardware is named in one file only."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import inceptionv4
from inceptionv4.errors import UsageError
from inceptionv4.runtime.device import computes_bf16, select_device

SOURCES = Path(inceptionv4.__file__).parent


def test_hardware_has_one_home() -> None:
    named = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if re.search(r"torch\.(cuda|npu)\b|torch_npu|[\"'](cuda|npu)", path.read_text())
    }
    assert named == {"runtime/device.py"}


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_f": True, "avx512_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_a_cpu_computes_in_bf16_where_it_has_the_instructions(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert select_device("cpu").precision == precision
    assert select_device("cpu", "fp32").precision == "fp32"
    assert select_device("cpu", "bf16").precision == "bf16"


def test_autocast_is_one_path(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with select_device("cpu", precision).autocast():  # type: ignore[arg-type]
            assert layer(torch.zeros(1, 2)).dtype is dtype


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "gpu", "npu"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    if name.startswith("cuda") and torch.cuda.device_count() > 7:
        pytest.skip("it is here")
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("it is here")
    with pytest.raises(UsageError, match=f"no device '{name}' here: .*; `auto` takes what there is"):
        select_device(name)


def test_an_ascend_is_chosen_with_its_own_layout_and_precision() -> None:
    """Untested on hardware: torch's placeholder backend stands in for torch_npu, in a process of its own."""
    code = """
import types, torch
from inceptionv4.errors import UsageError
from inceptionv4.runtime.device import select_device
torch.utils.rename_privateuse1_backend("npu")
torch.accelerator.current_accelerator = lambda check_available: torch.device("npu", 0)
for can, precision in ((False, "fp32"), (True, "bf16")):
    conv, matmul = (types.SimpleNamespace(allow_hf32=True) for _ in range(2))  # as torch_npu has them
    torch.npu = types.SimpleNamespace(is_bf16_supported=lambda: can, conv=conv, matmul=matmul)
    chosen = select_device()
    print(chosen.device, chosen.precision, chosen.memory_format, conv.allow_hf32, matmul.allow_hf32)
torch.npu = types.SimpleNamespace(is_bf16_supported=lambda: False)
try:
    select_device("auto", "bf16")
except UsageError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [
        "npu:0 fp32 torch.contiguous_format False False",
        "npu:0 bf16 torch.contiguous_format True True",
        "npu:0 does not compute in bf16; ask for fp32 or fp16",
    ]


def test_fp32_on_nvidia_is_fp32() -> None:
    """Untested on hardware: torch's own switches, in a process that has set all of them to TF32."""
    code = """
import torch
from inceptionv4.runtime.device import _keep_fp32
torch.backends.fp32_precision = "tf32"
torch.set_float32_matmul_precision("medium")
_keep_fp32(torch.device("cuda"))
print(torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision)
print(torch.backends.cuda.matmul.allow_tf32)  # the older name, which other code reads
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "ieee ieee\nFalse\n"


def test_fp32_on_a_cpu_is_fp32() -> None:
    """With ONEDNN_VERBOSE, each convolution and product says what it may round to."""
    code = """
import torch
from inceptionv4.runtime.device import select_device
torch.set_float32_matmul_precision("medium")
torch.backends.mkldnn.conv.fp32_precision = "bf16"
images = torch.randn(4, 64, 20, 20)
def compute():
    torch.nn.functional.conv2d(images, torch.ones(8, 64, 3, 3))
    images.view(64, -1) @ images.view(-1, 64)
compute()
print("then", flush=True)
select_device("cpu", "fp32")
compute()
"""
    environment = os.environ | {"ONEDNN_VERBOSE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    before, after = done.stdout.split("then\n")
    assert ",exec,cpu,convolution," in after
    assert "fpmath:" not in after
    if computes_bf16(torch.device("cpu")):  # elsewhere torch does not heed the switch
        assert "fpmath:bf16" in before, "the check can fail"


@pytest.mark.parametrize("name", ["ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"])
def test_an_environment_that_rounds_fp32_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where torch is to compute on the CPU in fp32, and nowhere else."""
    layer = torch.nn.Linear(2, 2)
    monkeypatch.setenv(name, "strict")
    select_device("cpu", "fp32").place(layer)
    monkeypatch.setenv(name, "BF16")
    select_device("cpu", "bf16").place(layer)
    with pytest.raises(
        UsageError, match=f"{name}=BF16 lets oneDNN round fp32 to fewer bits; unset it, or ask for bf16"
    ):
        select_device("cpu", "fp32").place(layer)


@pytest.mark.parametrize(
    ("allowed", "can"),
    [("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True), ("ALL", True), ("DEFAULT", True)],
)
def test_a_cpu_does_not_compute_in_bf16_where_onednn_is_told_not_to(
    monkeypatch: pytest.MonkeyPatch, allowed: str, can: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert computes_bf16(torch.device("cpu")) is can


def test_an_ascend_that_saturates_has_a_scaler_of_its_own() -> None:
    """Untested on hardware: with a stand-in for torch_npu, in a process of its own."""
    code = """
import sys, types, torch
from inceptionv4.runtime.device import Device
overflows = [True]
npu = types.SimpleNamespace(
    utils=types.SimpleNamespace(is_support_inf_nan=lambda: overflows[0]),
    amp=types.SimpleNamespace(GradScaler=lambda: "its own"),
)
sys.modules["torch_npu"] = types.SimpleNamespace(npu=npu)
torch.utils.rename_privateuse1_backend("npu")
torch.amp.GradScaler = lambda kind, enabled: f"torch's for {kind}, {enabled}"
half = Device(torch.device("npu", 0), torch.float16, torch.contiguous_format)
print(half.scaler())
overflows[0] = False
print(half.scaler())
print(Device(torch.device("npu", 0), torch.bfloat16, torch.contiguous_format).scaler())
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["torch's for npu, True", "its own", "torch's for npu, False"]


def test_ascends_wait_for_each_other_as_long_as_they_build_kernels() -> None:
    """Untested on hardware: torch's placeholder backend stands in for torch_npu, in a process of its own."""
    code = """
import os, torch
import torch.distributed as dist
from inceptionv4.runtime.device import Device, select_device
torch.utils.rename_privateuse1_backend("npu")
dist.Backend.default_device_backend_map["npu"] = "hccl"
os.environ.pop("HCCL_CONNECT_TIMEOUT", None)
print(select_device("cpu").collectives(), os.environ.get("HCCL_CONNECT_TIMEOUT"))
ascend = Device(torch.device("npu", 0), torch.float16, torch.contiguous_format)
print(ascend.collectives(), os.environ["HCCL_CONNECT_TIMEOUT"])
os.environ["HCCL_CONNECT_TIMEOUT"] = "7200"
print(ascend.collectives(), os.environ["HCCL_CONNECT_TIMEOUT"])
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["gloo None", "hccl 600", "hccl 7200"]
