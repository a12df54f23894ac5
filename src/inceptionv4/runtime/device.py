"""What the process computes on. This is the only file that names a kind of hardware."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from inceptionv4.config import PrecisionOption
from inceptionv4.errors import UsageError
from inceptionv4.runtime.launcher import read_launch

CPU, NVIDIA, ASCEND = "cpu", "cuda", "npu"
"""Kinds of torch's devices, by its names for them."""
ISAS_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of oneDNN's ONEDNN_MAX_CPU_ISA under which it only emulates products of bf16."""


@dataclass(frozen=True)
class Device:
    """A torch device, the precision to compute in there, and the memory layout that its convolutions like."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    memory_format: torch.memory_format

    @property
    def precision(self) -> Literal["fp32", "bf16", "fp16"]:
        match self.autocast_dtype:
            case torch.bfloat16:
                return "bf16"
            case torch.float16:
                return "fp16"
        return "fp32"

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute convolutions and matrix products in the chosen precision; a no-op for fp32."""
        return torch.autocast(
            self.device.type, dtype=self.autocast_dtype or torch.bfloat16, enabled=self.autocast_dtype is not None
        )

    def scaler(self) -> torch.amp.GradScaler:
        """What scales the loss so that gradients keep within fp16's range; without effect in other precisions."""
        enabled = self.autocast_dtype is torch.float16
        if enabled and self.device.type == "npu":
            import torch_npu

            if not torch_npu.npu.utils.is_support_inf_nan():
                # Ascend 910A and 310P saturate instead of overflowing, and tell of it in a register of their own.
                own: torch.amp.GradScaler = torch_npu.npu.amp.GradScaler()
                return own
        return torch.amp.GradScaler(self.device.type, enabled=enabled)

    def place(self, network: nn.Module) -> None:
        """Move `network` to the device, in its memory layout.

        Raises:
            UsageError: it is to compute in fp32 there, and the environment lets it compute in less.
        """
        self.require_fp32()
        network.to(self.device)
        network.to(memory_format=self.memory_format)

    def require_fp32(self) -> None:
        """Raise UsageError if fp32 is asked for and the environment lets oneDNN round it, as CPUs with AMX then do.

        oneDNN reads the variable when torch is imported, so that this program cannot change it.
        """
        if self.device.type != "cpu" or self.autocast_dtype is not None:
            return
        for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):
            if os.environ.get(name, "STRICT").upper() != "STRICT":
                raise UsageError(
                    f"{name}={os.environ[name]} lets oneDNN round fp32 to fewer bits; unset it, or ask for bf16 "
                    "(--precision; in a training --training.precision and --training.eval-precision)"
                )

    def for_evaluation(self, precision: PrecisionOption) -> Device:
        """The same device in the precision of the evaluations within a training.

        `auto` is fp32 on a CPU, as `inceptionv4 evaluate` computes by default, and the training's precision elsewhere.

        Raises:
            UsageError: it does not compute in this precision.
        """
        if precision == "auto":
            precision = "fp32" if self.device.type == CPU else self.precision
        return select_device(str(self.device), precision)

    def collectives(self) -> str:
        """What processes with such devices talk by: gloo for a CPU, nccl for NVIDIA's, hccl for Ascend's."""
        if self.device.type == "npu":
            # Each process builds its kernels first, for minutes, and not equally long; HCCL would wait for 120 s.
            os.environ.setdefault("HCCL_CONNECT_TIMEOUT", "600")
        return str(dist.get_default_backend_for_device(self.device))

    def default_workers(self) -> int:
        """Decoding threads that keep the device busy: a CPU computes itself and can spare one."""
        here = read_launch().local_count
        return 1 if self.device.type == "cpu" else max(min(16, (os.cpu_count() or 1) // here), 1)

    def machine(self) -> dict[str, str]:
        """What rounding depends on besides this program: where one of these differs, so do the last bits."""
        if self.device.type != CPU:
            name = torch.get_device_module(self.device).get_device_name(self.device)
            return {"processor": str(name), "torch": torch.__version__}
        can = torch.cpu.get_capabilities()
        instructions = sorted(name for name, value in can.items() if value is True)
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
        return {
            "processor": str(can.get("cpu_name", "CPU")),
            # Of one name there are several kinds.
            "instructions": f"{torch.backends.cpu.get_cpu_capability()}"
            f" of {hashlib.sha256(' '.join(instructions).encode()).hexdigest()[:8]}"
            + (f" with oneDNN up to {limit}" if limit else ""),
            "threads": str(torch.get_num_threads()),
            "torch": torch.__version__,
        }

    def describe(self) -> str:
        if self.device.type == "cpu":
            name = str(torch.cpu.get_capabilities().get("cpu_name", "CPU"))
            return f"{name}, {torch.get_num_threads()} threads, {self.precision}"
        return f"{self.device}, {self.precision}"


def select_device(name: str = "auto", precision: PrecisionOption = "auto") -> Device:
    """The device called `name`; `auto` takes the first accelerator that torch finds, else the CPU.

    Raises:
        UsageError: there is no such device here, or none for each process, or it does not compute in the precision
            asked for.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        device = found if found is not None else torch.device("cpu")
        launch = read_launch()
        if found is not None and launch.count > 1:  # each process of `torchrun` has its own
            if launch.local_rank >= (there := torch.accelerator.device_count()):
                raise UsageError(
                    f"this is process {launch.local_rank + 1} on this machine, which has {there} accelerators; start "
                    f"{there} processes here, or give them a device by --training.device or --device"
                )
            device = torch.device(found.type, launch.local_rank)
            torch.accelerator.set_device_index(device.index)
    else:
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"no device {name!r} here: {reason}; `auto` takes what there is") from None
    bf16 = computes_bf16(device)
    if precision == "bf16" and device.type != "cpu" and not bf16:
        raise UsageError(f"{device} does not compute in bf16; ask for fp32 or fp16")
    dtypes = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16, "auto": torch.bfloat16 if bf16 else None}
    dtype = dtypes[precision]
    if dtype is None:
        _keep_fp32(device)
    return Device(
        device=device,
        autocast_dtype=dtype,
        # Ascend has no channels-last kernels.
        memory_format=torch.contiguous_format if device.type == "npu" else torch.channels_last,
    )


def _keep_fp32(device: torch.device) -> None:
    """Have fp32 be fp32: if they are let, accelerators round to 10 bits of mantissa, and CPUs with AMX to bf16's 7."""
    torch.set_float32_matmul_precision("highest")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        # Without these, `torch.backends.fp32_precision` would decide, if somebody set it.
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # which it has at run time
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    elif device.type == "npu":
        for kind in (torch.npu.conv, torch.npu.matmul):  # type: ignore[attr-defined]  # torch_npu adds them
            kind.allow_hf32 = False
    elif device.type == "cpu":
        torch.backends.mkldnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # type: ignore[attr-defined]


def computes_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 in hardware, so that it is faster than fp32 and not emulated."""
    if device.type == "cpu":
        # oneDNN, which computes torch's convolutions, may be told to leave instructions unused.
        allowed = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT"
        if allowed.upper() in ISAS_WITHOUT_BF16:
            return False
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16") or can.get("arm_bf16"))
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "npu":
        return bool(torch.npu.is_bf16_supported())  # type: ignore[attr-defined]  # torch_npu adds it
    return False
