"""Tensors of the Open Inference Protocol, from JSON and from bytes; nothing is believed before it is checked."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from inceptionv4.errors import ServingError

LENGTH = struct.Struct("<I")
"""What stands before each element of a binary BYTES tensor."""
DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}


def read_numbers(data: Any, datatype: str, shape: Sequence[int]) -> np.ndarray:
    """A JSON tensor, nested as its shape says or flat, as an array of `datatype`, UINT8 or FP32, and `shape`.

    Raises:
        ServingError: 400, it is something else.
    """
    numbers = _flatten(data, shape)
    if len(numbers) != math.prod(shape):
        raise ServingError(400, f"shape {list(shape)} is {math.prod(shape)} values, and data has {len(numbers)}")
    kinds = (int,) if datatype == "UINT8" else (int, float)
    if not all(type(number) in kinds for number in numbers):  # a bool is an int to isinstance
        raise ServingError(400, f"data of {datatype} must be {'integers' if datatype == 'UINT8' else 'numbers'}")
    if datatype == "UINT8" and not 0 <= min(numbers) <= max(numbers) <= 255:
        raise ServingError(400, "data of UINT8 must be within 0 and 255")
    try:
        with np.errstate(over="ignore"):
            array = np.array(numbers, np.float64).astype(DTYPES[datatype]).reshape(shape)
    except OverflowError:  # an integer that no float is as large as
        raise ServingError(400, "data of FP32 must be finite") from None
    return _finite(array)


def read_binary_numbers(data: memoryview, datatype: str, shape: Sequence[int]) -> np.ndarray:
    """A binary tensor, little-endian and row by row, as an array of `datatype`, UINT8 or FP32, and `shape`.

    It shares the memory of `data` where that lies as it must.

    Raises:
        ServingError: 400, there are more or fewer bytes, or a value is not finite.
    """
    dtype = DTYPES[datatype]
    if len(data) != math.prod(shape) * dtype.itemsize:
        needed = math.prod(shape) * dtype.itemsize
        raise ServingError(400, f"{datatype} of shape {list(shape)} is {needed} bytes, and there are {len(data)}")
    return _finite(np.require(np.frombuffer(data, dtype).reshape(shape), requirements=("ALIGNED", "WRITEABLE")))


def read_files(data: Any, count: int) -> list[bytes]:
    """A JSON tensor of BYTES whose elements are files: strings of base64, as KServe has it.

    Raises:
        ServingError: 400, it is something else.
    """
    elements = _flatten(data, (count,))
    if len(elements) != count:
        raise ServingError(400, f"shape [{count}] is {count} elements, and data has {len(elements)}")
    try:
        return [base64.b64decode(element, validate=True) for element in elements]
    except (TypeError, ValueError):
        raise ServingError(400, "files in JSON must be strings of base64; binary data need no such thing") from None


def read_binary_files(data: memoryview, count: int) -> list[bytes]:
    """A binary tensor of BYTES: each element behind its length.

    Raises:
        ServingError: 400, the lengths do not fit.
    """
    elements = []
    while data:
        length = LENGTH.unpack_from(data)[0] if len(data) >= LENGTH.size else math.inf
        if length > len(data) - LENGTH.size:
            raise ServingError(400, "binary data of BYTES end within an element; each needs its length before it")
        end = LENGTH.size + int(length)
        elements.append(bytes(data[LENGTH.size : end]))
        data = data[end:]
        if len(elements) > count:
            break
    if len(elements) != count:
        raise ServingError(400, f"shape [{count}] is {count} elements, and the binary data have another number")
    return elements


def write_binary_texts(texts: Sequence[str]) -> bytes:
    """The binary form of a tensor of BYTES."""
    # Classes may be called by folders whose names are no UTF-8.
    elements = [text.encode("utf-8", "surrogateescape") for text in texts]
    return b"".join(LENGTH.pack(len(element)) + element for element in elements)


def _flatten(data: Any, shape: Sequence[int]) -> list[Any]:
    """The values of nested lists, each of the length that `shape` says, or of one that is flat already."""
    if not isinstance(data, list):
        raise ServingError(400, "data must be a list")
    values: list[Any] = data
    if values and isinstance(values[0], list):
        for length in shape[1:]:
            if not all(isinstance(part, list) and len(part) == length for part in values):
                raise ServingError(400, f"data are not nested as shape {list(shape)} says")
            values = [value for part in values for value in part]
    return values


def _finite(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ServingError(400, "data of FP32 must be finite")
    return array
