"""Pickles of numpy's arrays, read into records that do nothing, of which arrays are made at the end.

numpy's own classes are not safe here, even if a pickle can name nothing else: where it sets the flags of a data type,
numpy takes the bytes of an array for the addresses of objects, and with a stride of 0 it makes terabytes of four bytes.
Nor is Python's unpickler in C: nine bytes have it reserve 64 GB.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections import OrderedDict
from typing import Any, ClassVar

import numpy as np

NUMBERS = re.compile(r"[biufc]\d{1,2}|\?")
"""The data types that arrays may be of, as numpy abbreviates them."""
OPCODES_LEFT_OUT = (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)
"""Which reserve memory for what is not there, or take it from elsewhere."""


def unpickle(content: bytes, encoding: str) -> Any:
    """What is in a pickle, with a `PickledArray` in the place of each array; `encoding` is that of Python 2's strings,
    "bytes" leaves them as bytes.

    Raises:
        pickle.UnpicklingError: it asks for anything but arrays, dicts, lists and tuples.
        Exception: it is damaged; a scrambled pickle raises nearly anything.
    """
    return _Unpickler(io.BytesIO(content), encoding=encoding).load()


class PickledArray:
    """What a pickle says of an array."""

    def __init__(self) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def array(self) -> np.ndarray:
        """The array, read-only.

        Raises:
            pickle.UnpicklingError: it is not of numbers, or has not the bytes that its shape needs.
        """
        try:
            _, shape, kind, fortran, content = self._state
            dtype, shape = kind.dtype(), tuple(map(int, shape))
            if isinstance(content, _Encoded):
                content = content.text
            if isinstance(content, str):
                content = content.encode("latin1")
            if not isinstance(content, bytes) or min(shape, default=0) < 0:
                raise ValueError("its shape or its content is none")
            if math.prod(shape) * dtype.itemsize != len(content):
                raise ValueError(f"it has {len(content)} bytes for a shape of {shape}")
            return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
        except (TypeError, ValueError, AttributeError) as error:
            raise pickle.UnpicklingError(f"an array in it is damaged: {error}") from None


class _Type:
    """A data type: its name, and its order of bytes."""

    def __init__(self, name: Any, align: Any = False, copy: Any = True) -> None:
        self._name, self._order = _text(name), "="

    def __setstate__(self, state: Any) -> None:
        self._order = _text(state[1])

    def dtype(self) -> np.dtype:
        if not NUMBERS.fullmatch(self._name) or self._order not in "<>=|":
            raise ValueError(f"it is of {self._order}{self._name}, which are no numbers")
        return np.dtype(self._order + np.dtype(self._name).str[1:])


class _Encoded:
    """Bytes, as protocol 2 writes them down: text to be encoded by latin1, which is done once, for an array."""

    def __init__(self, text: str, encoding: Any = "latin1") -> None:
        if _text(encoding) not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"it encodes by {encoding!r}")
        self.text = text


def _reconstruct(*_: Any) -> PickledArray:
    """An array to be, which numpy makes empty, and whose state follows."""
    return PickledArray()


def _as_it_is(values: Any) -> tuple[Any, ...]:
    """A tuple of a tuple, without a copy."""
    if not isinstance(values, tuple):
        raise pickle.UnpicklingError("it makes a tuple of something else")
    return values


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _Encoded,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "tuple"): _as_it_is,
    ("__builtin__", "tuple"): _as_it_is,
}
"""All that a pickle may call, by the name that it calls it by; nothing is looked up, so nothing is imported."""


class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if bytes([code]) not in OPCODES_LEFT_OUT
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of it")


def _text(word: Any) -> str:
    return word.decode("latin1") if isinstance(word, bytes) else str(word)
