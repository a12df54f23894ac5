"""What `kernels.c` offers, on torch tensors; compiled by this machine's C compiler when it is first asked for.

The compiler is `$CC`, which may be several words, else `cc`. That takes about a second for a type, once: the result
lies in `$XDG_CACHE_HOME/inceptionv4`. Where there is no C compiler, or it fails, `load_kernels` warns and returns None,
and nothing is lost but speed.

Images are `(B, C, H, W)`, channels last in memory, and may be a slice of the channels of a wider tensor.
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
OPTIONS = (
    "-std=gnu11",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-fPIC",
    "-shared",
)
ELEMENTS = {torch.bfloat16: 16, torch.float32: 32, torch.float64: 64}


@functools.cache
def load_kernels(dtype: torch.dtype) -> Kernels | None:
    """The kernels for images of `dtype`; None for another than bfloat16, float32 and float64, or if none can be made,
    which a warning says once.
    """
    if dtype not in ELEMENTS:
        return None
    compiler = os.environ.get("CC") or "cc"
    try:
        return Kernels(_load_library(shlex.split(compiler), ELEMENTS[dtype]), dtype)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        said = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else ""
        reason = " ".join((said or str(error)).split())[:300]
        warnings.warn(
            f"training on this processor is slower than it could be: its kernels were not made by {compiler!r} "
            f"({reason}); install a C compiler, or set CC to one",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _load_library(compiler: list[str], element: int) -> ctypes.CDLL:
    """The compiled code: from the cache, else made, and kept if that can be."""
    program, *words = compiler
    command = [shutil.which(program) or program, *words, *OPTIONS, f"-DELEMENT={element}"]
    machine = str(sorted(torch.cpu.get_capabilities().items()))
    key = hashlib.sha256("\n".join([*command, machine]).encode() + SOURCE.read_bytes()).hexdigest()[:32]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inceptionv4"
    library = folder / f"kernels-{key}.so"
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


class Kernels:
    """Passes over images of one `dtype`; statistics and factors of channels are in `real`: float64 for float64."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._library = library
        self._has_weight_gradient = hasattr(library, "weight_gradient")
        self.real = torch.float64 if dtype is torch.float64 else torch.float32

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each channel: `(C,)` each."""
        channels = images.size(1)
        mean, variance = torch.empty(2, channels, dtype=self.real).unbind()
        self._call("moments", *_rows(images), _pixels(images), channels, mean, variance)
        return mean, variance

    def rectify(self, images: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
        """`out = relu(scale images + shift)`, with a scale and a shift for each channel."""
        self._call("rectify", *_rows(images), *_rows(out), _pixels(images), images.size(1), scale, shift)

    def gradient_sums(
        self, images: Tensor, gradient: Tensor, scale: Tensor, shift: Tensor, mean: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of `rectify`'s gradient g where it lets through: the sums over g and over g (images - mean), `(C,)` each."""
        channels = images.size(1)
        sums, products = torch.empty(2, channels, dtype=self.real).unbind()
        arguments = (*_rows(images), *_rows(gradient), _pixels(images), channels, scale, shift, mean, sums, products)
        self._call("gradient_sums", *arguments)
        return sums, products

    def gradient(
        self,
        images: Tensor,
        gradient: Tensor,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
        offset: Tensor,
        slope: Tensor,
        out: Tensor,
    ) -> None:
        """`out = scale (g - offset - (images - mean) slope)`, g as in `gradient_sums`; `out` may be `gradient`."""
        rows = (*_rows(images), *_rows(gradient), *_rows(out), _pixels(images), images.size(1))
        self._call("gradient", *rows, scale, shift, mean, offset, slope)

    def max_pool(self, images: Tensor, out: Tensor) -> None:
        """The maximum over 3 x 3 with stride 2, without padding."""
        count, channels, height, width = images.shape
        self._call("max_pool", *_rows(images), *_rows(out), count, height, width, channels)

    def max_pool_gradient(self, images: Tensor, gradient: Tensor, total: Tensor) -> None:
        """Add to `total`, shaped as `images`, what `gradient` behind `max_pool` is before it."""
        count, channels, height, width = images.shape
        rows = (*_rows(images), *_rows(gradient), *_rows(total))
        self._call("max_pool_gradient", *rows, count, height, width, channels)

    def average_pool(self, images: Tensor, out: Tensor, *, backwards: bool = False) -> None:
        """The mean over what of 3 x 3 lies inside the image, or with `backwards` the gradient of that."""
        count, channels, height, width = images.shape
        self._call("average_pool", *_rows(images), *_rows(out), count, height, width, channels, int(backwards))

    def weight_gradient(self, images: Tensor, gradient: Tensor, conv: nn.Conv2d) -> Tensor | None:
        """The gradient of `conv`'s weights from that of its output; None where torch is not slower."""
        channels, kernel = conv.in_channels, conv.kernel_size
        if not self._has_weight_gradient or channels % 16 or kernel == (1, 1):
            return None
        weight = torch.empty(conv.out_channels, channels, *kernel, memory_format=torch.channels_last)
        stride, (pad_height, pad_width) = conv.stride[0], cast(tuple[int, int], conv.padding)
        sizes = (len(images), *images.shape[2:], channels, *gradient.shape[2:], conv.out_channels)
        arguments = (*_rows(images), *_rows(gradient), weight, *sizes, *kernel, stride, pad_height, pad_width)
        self._call("weight_gradient", *arguments)
        return weight

    def _call(self, name: str, *arguments: Tensor | int) -> None:
        getattr(self._library, name)(
            *(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_long(a) for a in arguments)
        )


def _pixels(images: Tensor) -> int:
    return images.size(0) * images.size(2) * images.size(3)


def _rows(images: Tensor) -> tuple[Tensor, int]:
    """The tensor, and how many elements lie between one pixel and the next."""
    sizes = (images.size(3), images.size(2), images.size(0))
    strides = (images.stride(3), images.stride(2), images.stride(0))
    pitch = next((stride for size, stride in zip(sizes, strides, strict=True) if size > 1), images.size(1))
    step = pitch
    for size, stride in zip(sizes, strides, strict=True):
        assert size == 1 or stride == step, "pixels must lie in rows"
        step *= size
    assert images.size(1) == 1 or images.stride(1) == 1, "channels must come last"
    return images, pitch
