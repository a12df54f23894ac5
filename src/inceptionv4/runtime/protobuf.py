"""Protobuf's wire format, without its library: fields of a message of any size, one after the other.

The library takes 2 GiB at most and copies what it parses; files of weights come near to that, and most of a file is
not needed.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, LENGTH = 0, 2
"""Wire types."""


def read_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: a number, or the bytes of a text, an array or an inner message.

    Raises:
        ValueError: the message is cut short, or has a field of another wire type.
    """
    for number, value, _ in read_raw_fields(message):
        yield number, value


def read_raw_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview, memoryview]]:
    """As `read_fields`, with all the bytes of each field, its key included.

    Raises:
        ValueError: as `read_fields`.
    """
    position = 0
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        value: int | memoryview
        if key & 7 == VARINT:
            value, position = _read_varint(message, position)
        elif key & 7 == LENGTH:
            length, position = _read_varint(message, position)
            if length > len(message) - position:
                raise ValueError("it is cut short")
            value = message[position : position + length]
            position += length
        else:
            raise ValueError(f"a field of the kind {key & 7}")
        yield key >> 3, value, message[start:position]


def encode_varint(number: int) -> bytes:
    """A number that is at least 0."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_bytes(field: int, content: bytes) -> bytes:
    """A field that holds a text, an array or an inner message."""
    return encode_varint(field << 3 | LENGTH) + encode_varint(len(content)) + content


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("it is cut short")
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError("a number of more than ten bytes")
