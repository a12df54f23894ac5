"""JSON as RFC 8259 defines it, written and read: UTF-8, without NaN and Infinity, which Python's `json` writes too.

Every file and every answer of ours that is JSON comes from `to_json`. A number that is undefined is written as null by
whoever knows that it may be.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

# These stand within strings only, so that the escape is JSON's. A terminal obeys the controls among them, some readers
# end a line at U+2028, and half a surrogate pair, which a file name that is no UTF-8 has in Python, cannot be encoded.
ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def to_json(value: object, *, indent: int | None = None) -> str:
    """A value as JSON that any reader takes: text that can be UTF-8, with no control character but line ends.

    Raises:
        ValueError: a number in it is NaN or infinite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def from_json(content: bytes | str) -> Any:
    """The value of a JSON text from anywhere.

    Raises:
        ValueError: it is no JSON, no UTF-8, nested too deeply to be read, or has a number that is not finite.
    """
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not in JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is too large a number")
    return number
