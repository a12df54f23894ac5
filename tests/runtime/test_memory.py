"""What becomes of memory that is free, each time in a process that has none yet."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

PIECE = 2**27
SCRIPT = f"""
import json, os, resource, sys
import torch
from inceptionv4.runtime.device import Device
from inceptionv4.runtime.memory import freed_memory_kept

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def cleared_pages():
    "While a piece of memory is taken, written to, and freed."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones({PIECE}, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

said = {{}}
before = resident()
try:
    with freed_memory_kept(Device(torch.device(sys.argv[1]), None, torch.contiguous_format)):
        said["cleared"] = [cleared_pages() for _ in range(5)]
        said["kept"] = resident() - before
        if sys.argv[2] == "fails":
            raise KeyError
except KeyError:
    said["failed"] = True
said["left"] = resident() - before
torch.ones(6 * {PIECE}, dtype=torch.uint8)  # for which nothing that may be left is large enough
said["left later"] = resident() - before
print(json.dumps(said))
"""


def run(device: str = "cpu", end: str = "ends", **environment: str) -> dict[str, Any]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", SCRIPT, device, end]
    result = subprocess.run(command, env=own | environment, stdout=subprocess.PIPE, check=True)
    said: dict[str, Any] = json.loads(result.stdout)
    return said


@pytest.mark.parametrize("end", ["ends", pytest.param("fails", marks=pytest.mark.slow)])
def test_freed_memory_is_kept_and_goes_back_in_the_end(end: str) -> None:
    said = run(end=end)
    # Small things may come to lie in what is free, so that a large one finds its place the second or third time.
    assert min(said["cleared"][1:]) < 16 < said["cleared"][0]  # a page is 4 kB, or 2 MB at most
    assert said["kept"] > 0.9 * PIECE
    assert said["left"] < 0.2 * PIECE
    assert said["left later"] < 0.2 * PIECE
    assert ("failed" in said) == (end == "fails")


SLOW = pytest.param("GLIBC_TUNABLES", marks=pytest.mark.slow)


@pytest.mark.parametrize("reason", ["MALLOC_TRIM_THRESHOLD_", SLOW, "another device"])
def test_memory_is_left_as_it_is(reason: str) -> None:
    said = run("meta") if reason == "another device" else run(**{reason: ""})
    assert min(said["cleared"]) > 16
    assert said["kept"] < 0.2 * PIECE
