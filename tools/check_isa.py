"""Run the tests marked `isa` as other processors would: with fewer instructions than this one has.

    python tools/check_isa.py

oneDNN, ATen and OpenVINO obey switches, which stand for another processor in their arithmetic. ONNX Runtime has no
switch. What a processor does not have cannot be stood for: on one with AVX2 alone there is nothing left to check.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

ISAS = {"AVX2": "avx2", "AVX512_CORE": "avx512"}
"""oneDNN's names of instruction sets, and ATen's for those of the same processors."""
PROBE = """
import torch
torch.nn.functional.conv2d(torch.ones(4, 16, 32, 32), torch.ones(16, 16, 3, 3))
print("ATen", torch.backends.cpu.get_cpu_capability())
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
    onednn = re.search(r"info,cpu,isa:(.*)", said)
    aten = re.search(r"ATen (\w+)", said)
    if onednn is None or aten is None:
        sys.exit(f"torch does not say which instructions it uses: {said[:300]!r}")
    return f"oneDNN: {onednn[1]}; ATen: {aten[1]}"


def main() -> None:
    native = used({})
    print(f"this processor: {native}")
    seen, failed = {native}, []
    for isa in ISAS:
        found = used(switches(isa))
        if found in seen:
            print(f"{isa}: not run, for it is no other processor than one that was run")
            continue
        seen.add(found)
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
