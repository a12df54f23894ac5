r"""Text for people, on a terminal or in a log: what a name holds is shown, and moves no cursor and no line.

Names of files and classes come from elsewhere. A terminal would obey the escape sequences in them, a line end would
begin a line that we never wrote, and a mark of direction would turn round what stands beside it.
"""

from __future__ import annotations

import re
import sys

# Controls (C0, DEL, C1), separators of lines, marks of direction, and halves of surrogate pairs, by which Python stands
# for bytes that are no UTF-8.
ESCAPED = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: object) -> str:
    r"""A text on one line, in which every character that is not to be shown as it is is written as in Python's strings.

    An escape is `\x1b`, the end of a line `\n`, a byte that is no UTF-8 `\xe9`.
    """
    return ESCAPED.sub(_escape, str(text))


def note(*lines: object) -> None:
    """Print lines for people on standard error."""
    for line in lines:
        print(printable(line), file=sys.stderr, flush=True)


def _escape(found: re.Match[str]) -> str:
    letter = found[0]
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00  # the byte that this stands for
    return NAMED.get(letter) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")
