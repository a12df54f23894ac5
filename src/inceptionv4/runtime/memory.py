"""How much memory there is, how much was used, and what becomes of it when it is free."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from inceptionv4.errors import UsageError
from inceptionv4.runtime.device import Device

if sys.platform != "win32":
    import resource

CGROUP = Path("/sys/fs/cgroup/memory.max")

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`, from its malloc.h, with what they are if nobody sets them:"""
DEFAULTS = {TRIM_THRESHOLD: 128 * 1024, MMAP_MAX: 65536}


@contextmanager
def freed_memory_kept(device: Device) -> Iterator[None]:
    """Within it, main memory that is freed stays with the process; afterwards it goes back to the system.

    A step on a CPU frees as much as it takes, and takes the same again. Large pieces glibc gives back at once, and the
    system then clears each page anew before the next step has it, which takes up to an eighth of a step
    (benchmarks/RESULTS.md). Nothing is done where another device computes, where the C library is not glibc, or if the
    environment says how memory is to be allocated.
    """
    own = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    if device.device.type != "cpu" or platform.libc_ver()[0] != "glibc" or own:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        for parameter, value in DEFAULTS.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def peak_memory(device: Device) -> int:
    """The most that this process has used so far, bytes: of the device, or of main memory for a CPU."""
    if device.device.type != "cpu":
        return torch.accelerator.max_memory_reserved(device.device)
    if sys.platform == "win32":
        raise UsageError("main memory cannot be measured on Windows; plan on Linux or macOS")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def total_memory(device: Device) -> int:
    """What this process may use, bytes: of the device, or of main memory, as far as it is free or its own."""
    if device.device.type != "cpu":
        free, _ = torch.accelerator.get_memory_info(device.device)
        return int(free) + torch.accelerator.memory_reserved(device.device)
    try:
        available = int(re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[0]) * 1024
        own = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):  # no Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP.read_text().strip() if CGROUP.exists() else "max"
    return min(available + own, int(limit)) if limit != "max" else available + own
