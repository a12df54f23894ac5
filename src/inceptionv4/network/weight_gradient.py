"""The gradient of a convolution's weights where oneDNN's is slow: float32, AVX2 without AVX-512.

Such processors are common in laptops. oneDNN's weight gradient runs there at half the speed of its convolution, and
`weight_gradient.c` makes a training step 1.1 to 1.2 times as fast (benchmarks/RESULTS.md). Elsewhere nothing is
compiled. The C compiler is `$CC`, which may be several words, else `cc`; it takes about a second, once: the result lies
in `$XDG_CACHE_HOME/inceptionv4/kernels`, if that folder is this user's alone. What is damaged there, or may be written
by others, is not used, and made again. Without a compiler, a warning says so once, and oneDNN's gradient is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import stat
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

DIGEST_BYTES = hashlib.sha256().digest_size


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
    cache = _cache()
    kept = cache / f"weight-gradient-{key}" if cache is not None else None
    if kept is not None and (code := _read_kept(kept)) is not None:
        with contextlib.suppress(OSError):  # it is for another machine that shares this home
            return _load(code)
    with tempfile.TemporaryDirectory() as building:
        made = Path(building) / "weight-gradient.so"
        subprocess.run([*command, str(SOURCE), "-o", str(made)], check=True, capture_output=True)
        code = made.read_bytes()
    library = _load(code)
    if kept is not None:
        _keep(code, kept)
    return library


def _cache() -> Path | None:
    """Where compiled code is kept, None if nowhere: a folder of this user's, that nobody else can write.

    Code that is kept will be executed. So whoever could put a file there would decide what this user executes.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "inceptionv4" / "kernels"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)  # whatever the umask: many let a group write
        return folder if _is_ours_alone(folder.lstat()) and folder.is_dir() else None
    except (OSError, RuntimeError):  # nowhere to write; a user without a home
        return None


def _is_ours_alone(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read_kept(path: Path) -> bytes | None:
    """The code in a file of `_keep`; None if there is none, it is not ours alone, or not as it was written."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as kept:
            status = os.fstat(file)
            if not (stat.S_ISREG(status.st_mode) and _is_ours_alone(status)):
                return None
            digest, code = kept.read(DIGEST_BYTES), kept.read()
    except OSError:
        return None
    return code if digest == hashlib.sha256(code).digest() else None


def _keep(code: bytes, path: Path) -> None:
    """Write code behind its digest, whole or not at all; where that cannot be, it is compiled again the next time."""
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as written:
        temporary = Path(written.name)
        try:
            written.write(hashlib.sha256(code).digest() + code)
            written.flush()
            os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)  # it is gone if it has got its name


def _load(code: bytes) -> ctypes.CDLL:
    """Load code from memory, or where that cannot be from a file of its own.

    Nobody can change memory between the check and the loading, and no mount forbids its execution. A file that is cut
    short while it is loaded would end the process with SIGBUS.
    """
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or a system that forbids it
        file = os.memfd_create("weight-gradient", os.MFD_CLOEXEC)
        with os.fdopen(file, "wb", closefd=False) as written:
            written.write(code)
        # The descriptor stays open: another library under its number would be taken for this one.
        return ctypes.CDLL(f"/proc/self/fd/{file}")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "weight-gradient.so"
        library.write_bytes(code)
        return ctypes.CDLL(str(library))  # which stays loaded when the file is gone
