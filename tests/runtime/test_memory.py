"""`runtime.memory`: a process answers for itself, whatever the process that started it has used."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from inceptionv4.runtime.memory import peak_process_memory

MIB = 2**20
BATCHES = 16 * MIB  # Linux counts pages in batches, some for each processor, so that a peak can be read a little lower
PARENT = """
import subprocess, sys
block = b"1" * int(sys.argv[1])
subprocess.run([sys.executable, "-c", *sys.argv[2:]], check=True)
"""
CHILD = """
import sys
import numpy as np
from inceptionv4.runtime.memory import peak_process_memory
before = peak_process_memory()
block = np.ones(int(sys.argv[1]), np.uint8)
print(before, peak_process_memory())
"""


def test_a_child_of_a_large_process_reports_its_own_peak() -> None:
    parent, child = 1536 * MIB, 128 * MIB  # the child has torch besides, which takes 500 MiB
    command = [sys.executable, "-c", PARENT, str(parent), CHILD, str(child)]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    before, after = map(int, output.split())
    assert before < parent - child
    assert abs(after - before - child) < BATCHES


def test_the_peak_outlives_the_memory() -> None:
    block = np.ones(64 * MIB, np.uint8)
    peak = peak_process_memory()
    assert peak > block.nbytes
    del block
    assert peak_process_memory() > peak - BATCHES
