"""How much memory there is, and how much was used."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import torch

from inceptionv4.errors import UsageError
from inceptionv4.runtime.device import Device

if sys.platform != "win32":
    import resource

CGROUP = Path("/sys/fs/cgroup/memory.max")
STATUS = Path("/proc/self/status")


def peak_memory(device: Device) -> int:
    """The most that this process has used so far, bytes: of the device, or of main memory for a CPU."""
    if device.device.type != "cpu":
        return torch.accelerator.max_memory_reserved(device.device)
    return peak_process_memory()


def peak_process_memory() -> int:
    """The most main memory that this process has held at once so far, bytes.

    Linux starts `ru_maxrss` of a new program at the peak of the process that started it, and keeps the larger of the
    two. VmHWM belongs to the address space, which is new after exec. After a bare fork it starts at what the parent
    held at that time. It is right to some pages for each processor.

    Raises:
        UsageError: on Windows.
    """
    if sys.platform == "win32":
        raise UsageError("main memory cannot be measured on Windows; plan on Linux or macOS")
    if STATUS.exists() and (found := re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
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
