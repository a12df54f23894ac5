"""MindSpore's checkpoint files, read and written without MindSpore.

    Checkpoint      repeated Value value = 1
    Value           string tag = 1; TensorProto tensor = 2; MapTensorProto maptensor = 3
    TensorProto     repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3

A file is such messages one after the other, which is one message; a tensor over 512 MiB stands in several values of the
same tag; `crc_num` and ten bytes of checksum may follow. The file is mapped and walked, not parsed by protobuf's
library: training checkpoints come near to the 2 GiB that it takes at most, and nine tenths of them are not needed.
"""

from __future__ import annotations

import binascii
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from inceptionv4.errors import CheckpointError
from inceptionv4.runtime.files import write_whole
from inceptionv4.runtime.protobuf import encode_bytes, encode_varint, read_fields

ENCRYPTED = (bytes.fromhex("d85e3a7f"), bytes.fromhex("d95e3a7f"))
"""What encrypted files begin with: AES in its modes GCM and CBC."""
TYPES = {
    "Float16": np.float16, "Float32": np.float32, "Float64": np.float64, "BFloat16": np.uint16, "Bool": np.bool_,
    "Int8": np.int8, "Int16": np.int16, "Int32": np.int32, "Int64": np.int64,
    "UInt8": np.uint8, "UInt16": np.uint16, "UInt32": np.uint32, "UInt64": np.uint64,
}  # fmt: skip
CHECKSUM = b"crc_num"


def read_mindspore(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a `.ckpt`, by their names, as views on the mapped file; bfloat16 as float32. Texts and map tensors
    are left out.

    Raises:
        CheckpointError: cut short, damaged, or no such file.
    """
    parts: dict[str, tuple[str, tuple[int, ...], list[memoryview]]] = {}
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        for number, value in read_fields(_checked(content)):
            if number != 1 or not isinstance(value, memoryview):
                raise ValueError(f"a field {number} where only tensors may be")
            tag, kind, shape, data = _value(value)
            if kind:
                parts.setdefault(tag, (kind, shape, []))[2].append(data)
    except ValueError as error:  # which wrong UTF-8 is, too
        message = f"{path} is damaged, or no checkpoint of MindSpore's ({error}); copy it again"
        raise CheckpointError(message) from None
    return {tag: _array(path, tag, *rest) for tag, rest in parts.items()}


def write_mindspore(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write `arrays`, float32 or any other of `TYPES`, as a `.ckpt` that MindSpore's `load_checkpoint` reads.

    Raises:
        RunError: the file cannot be written.
    """
    names = {np.dtype(kind): name for name, kind in TYPES.items() if name != "BFloat16"}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for tag, array in arrays.items():
                dims = b"".join(b"\x08" + encode_varint(size) for size in array.shape)
                tensor = dims + encode_bytes(2, names[array.dtype].encode()) + encode_bytes(3, array.tobytes())
                file.write(encode_bytes(1, encode_bytes(1, tag.encode()) + encode_bytes(2, tensor)))

    write_whole(path, write)


def _checked(content: memoryview) -> memoryview:
    """The messages without the checksum that may follow them, which must be right."""
    if bytes(content[-17:-10]) != CHECKSUM:
        return content
    if binascii.crc32(content[:-17]) != int.from_bytes(content[-10:], "big"):
        raise ValueError("its checksum is wrong")
    return content[:-17]


def _value(message: memoryview) -> tuple[str, str, tuple[int, ...], memoryview]:
    """Tag, type, shape and content of a value; no type where it is a map or a text, which no network needs."""
    tag, kind, shape, data = "", "", [], memoryview(b"")
    for number, value in read_fields(message):
        if number == 1 and isinstance(value, memoryview):
            tag = str(value, "utf-8")
        elif number == 2 and isinstance(value, memoryview):
            for inner, part in read_fields(value):
                if inner == 1 and isinstance(part, int):
                    shape.append(part)
                elif inner == 2 and isinstance(part, memoryview):
                    kind = str(part, "utf-8")
                elif inner == 3 and isinstance(part, memoryview):
                    data = part
    return tag, "" if kind == "str" else kind, tuple(shape), data


def _array(path: Path, tag: str, kind: str, shape: tuple[int, ...], parts: list[memoryview]) -> np.ndarray:
    if kind not in TYPES:
        raise CheckpointError(f"{path}: {tag} is of the type {kind}, which no Inception-v4 has")
    data = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
    dtype = np.dtype(TYPES[kind])
    if len(data) != dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise CheckpointError(f"{path} is damaged: {tag} has {len(data)} bytes for a shape of {shape}; copy it again")
    array = np.frombuffer(data, dtype).reshape(shape)
    if kind == "BFloat16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array
