"""The gradient of a convolution's weights where oneDNN's is slow: float32, AVX2 without AVX-512.

Such processors are common in laptops. oneDNN's weight gradient runs there at half the speed of its convolution, and
`weight_gradient.c` makes a training step 1.1 to 1.2 times as fast (benchmarks/RESULTS.md). Elsewhere nothing is
compiled. The C compiler is `$CC`, which may be several words, else `cc`; it takes about a second, once: the result lies
in `$XDG_CACHE_HOME/inceptionv4`. Without a compiler, a warning says so once, and oneDNN's gradient is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

SOURCE = Path(__file__).with_suffix(".c")
# Not -march=native: the file is compiled and tested for AVX2 on processors with AVX-512, too.
OPTIONS = (
    "-std=gnu11",
    "-O3",
    "-mavx2",
    "-mfma",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-fPIC",
    "-shared",
)


def weight_gradient(images: Tensor, gradient: Tensor, conv: nn.Conv2d) -> Tensor | None:
    """The gradient of `conv`'s weights from that of its output; None where torch is not slower, or has to do it.

    `images` is `(B, C, H, W)`, `gradient` `(B, out_channels, H', W')`; the result is channels last in memory, as the
    weights are.
    """
    # 1 x 1 gains little, and the kernel sums 16 channels at once. torch names AVX-512 if it may use it: the environment
    # variable ATEN_CPU_CAPABILITY says otherwise.
    if images.dtype is not torch.float32 or conv.in_channels % 16 or conv.kernel_size == (1, 1):
        return None
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return None
    library = load_library()
    return None if library is None else run_kernel(library, images, gradient, conv)


def run_kernel(library: ctypes.CDLL, images: Tensor, gradient: Tensor, conv: nn.Conv2d) -> Tensor:
    """`weight_gradient` on any processor with AVX2."""
    images = images.contiguous(memory_format=torch.channels_last)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    weight = torch.empty(conv.weight.shape, memory_format=torch.channels_last)
    sizes = (len(images), *images.shape[2:], conv.in_channels, *gradient.shape[2:], conv.out_channels)
    geometry = (*conv.kernel_size, conv.stride[0], *cast(tuple[int, int], conv.padding))
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (images, gradient, weight))
    library.weight_gradient(*pointers, *(ctypes.c_long(number) for number in (*sizes, *geometry)))
    return weight


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The compiled kernel; None, after a warning, if it cannot be made."""
    compiler = os.environ.get("CC") or "cc"
    try:
        return _load_or_compile(shlex.split(compiler))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        said = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else ""
        reason = " ".join((said or str(error)).split())[:300]
        warnings.warn(
            f"training on this processor is slower than it could be: its kernel was not made by {compiler!r} "
            f"({reason}); install a C compiler, or set CC to one",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _load_or_compile(compiler: list[str]) -> ctypes.CDLL:
    """The compiled code: from the cache, else made, and kept if that can be."""
    program, *words = compiler
    command = [shutil.which(program) or program, *words, *OPTIONS]
    key = hashlib.sha256("\n".join(command).encode() + SOURCE.read_bytes()).hexdigest()[:32]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inceptionv4"
    library = folder / f"weight-gradient-{key}.so"
    if not library.exists():
        with contextlib.suppress(OSError):  # nowhere to keep it
            folder.mkdir(parents=True, exist_ok=True)
        keeps = folder.is_dir() and os.access(folder, os.W_OK)
        with tempfile.TemporaryDirectory(dir=folder if keeps else None) as building:
            made = Path(building) / library.name
            subprocess.run([*command, str(SOURCE), "-o", str(made)], check=True, capture_output=True)
            if not keeps:
                return ctypes.CDLL(str(made))  # which stays loaded when the file is gone
            made.replace(library)  # whole or not at all, should two processes do it
    return ctypes.CDLL(str(library))
