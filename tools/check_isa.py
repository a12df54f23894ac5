"""Run the tests marked `isa` as other processors would: with fewer instructions than this one has.

    python tools/check_isa.py

oneDNN, ATen and OpenVINO obey switches, which stand for another processor in their arithmetic; ONNX Runtime has none.
Instructions that this processor lacks cannot be tested: on one with AVX2 alone, or on ARM, there is nothing to run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import torch

ISAS = {"AVX2": "avx2", "AVX512_CORE": "avx512"}
"""oneDNN's names of instruction sets, and ATen's for those of the same processors."""
MORE = {"AVX2": "avx512_f", "AVX512_CORE": "avx512_vnni"}
"""What a processor has that has more than these, by torch's names."""
PROBE = """
import torch
torch.nn.functional.conv2d(torch.ones(4, 16, 32, 32), torch.ones(16, 16, 3, 3))
print("ATen", torch.backends.cpu.get_cpu_capability())
from inceptionv4.inference.backends.openvino import precisions
print("OpenVINO", *precisions())
"""


def switches(isa: str) -> dict[str, str]:
    """The environment under which a process uses `isa` and nothing beyond it."""
    return {"ONEDNN_MAX_CPU_ISA": isa, "ATEN_CPU_CAPABILITY": ISAS[isa], "OV_CPU_MAX_ISA": isa}


def used(environment: dict[str, str]) -> str:
    """What oneDNN and ATen say that they use: an unknown value of a switch is ignored without a word."""
    probe = [sys.executable, "-c", PROBE]
    said = subprocess.run(
        probe, env=os.environ | environment | {"ONEDNN_VERBOSE": "1"}, capture_output=True, text=True, check=True
    ).stdout
    found = [re.search(pattern, said) for pattern in (r"info,cpu,isa:(.*)", r"ATen (\w+)", r"OpenVINO (.*)")]
    if None in found:
        sys.exit(f"torch or OpenVINO does not say which instructions it uses: {said[:300]!r}")
    names = ("oneDNN", "ATen", "OpenVINO in")
    return "; ".join(f"{name} {match[1]}" for name, match in zip(names, found, strict=True) if match)


def main() -> None:
    native = used({})
    print(f"this processor: {native}")
    failed = []
    for isa in ISAS:
        if not torch.cpu.get_capabilities().get(MORE[isa]):
            print(f"{isa}: skipped, for this processor has no more than that")
            continue
        found = used(switches(isa))
        if found == native:
            sys.exit(f"{isa}: the switches are not obeyed: {found}")
        print(f"{isa}: {found}", flush=True)
        start = time.monotonic()
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "isa and not accelerator and not slow"]
        if subprocess.run(tests, env=os.environ | switches(isa)).returncode:
            failed.append(isa)
        print(f"{isa}: {'failed' if isa in failed else 'passed'}, {time.monotonic() - start:.0f} s", flush=True)
    if failed:
        sys.exit(f"tests fail on {', '.join(failed)}")


if __name__ == "__main__":
    main()
