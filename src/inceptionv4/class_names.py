"""Names of classes: how `classes.txt` is read and written, and when two spellings are one name.

Unicode writes `é` as one character (NFC, as Linux and Windows do) or as two (NFD, as a Mac's folders do). They look
alike, so names are compared and kept as NFC. Names that differ in case are different names.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Sequence

from inceptionv4.errors import DataError

BLANKS = " \t"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LINE_END = re.compile("\r\n|\r|\n")


def normal(name: str) -> str:
    """The spelling (NFC) that two spellings of one name have in common."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def spelling(path: str) -> tuple[str, str]:
    """By which paths are sorted: first by what all spellings of a path have in common."""
    return normal(path), path


def class_name(folder: str) -> str:
    """The class that the name of a folder says: in its normal spelling, without blanks around it."""
    return normal(folder).strip()


def refuse_two_spellings(names: Iterable[str], where: str) -> None:
    """Raises:
    DataError: two of `names`, all of one place, are one name in two spellings (NFC and NFD).
    """
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(normal(name), name)) != name:
            # Both look alike on a screen: ascii() shows how they differ.
            raise DataError(
                f"{where} has the class {normal(name)!r} in two spellings, {other!a} and {name!a}; "
                "put their images into one class, or rename one of them"
            )


def class_numbers(names: Iterable[str]) -> dict[str, int]:
    """The number of each class, by its normal name, in the order of text."""
    return {name: number for number, name in enumerate(sorted({normal(name) for name in names}))}


def read_class_names(content: bytes, where: str) -> tuple[str, ...]:
    """The names in a `classes.txt`: UTF-8, a line each, in the order of their numbers. `where` is what errors call it.

    A byte order mark, blanks around a name and blank lines at the end do not count.

    Raises:
        DataError: it is no UTF-8, or has no names, a blank line between names, a name twice, or a name with a
            character that no name has.
    """
    lines = [line.strip(BLANKS) for line in LINE_END.split(_decode(content, where))]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{where} is empty; write the name of each class on a line of its own")
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            raise DataError(f"{where}:{number} is blank, though names follow; each line names the class of its number")
        if strange := strange_character(line):
            raise DataError(f"{where}:{number}: the name {line!a} has the character {strange}; remove it")
        if (earlier := first.setdefault(normal(line), number)) != number:
            raise DataError(
                f"{where} names {normal(line)!r} twice, in lines {earlier} and {number}; "
                "each class needs a name of its own"
            )
    return tuple(first)


def write_class_names(names: Sequence[str], where: str) -> bytes:
    """The content of a `classes.txt` from which `read_class_names` reads `names`. `where` is where they are from.

    Raises:
        DataError: a name would be read as another one.
    """
    for name in names:
        if not name.strip(BLANKS) or name != name.strip(BLANKS):
            raise DataError(f"{where}: the class {name!r} has blanks around its name; rename it")
        if strange := strange_character(name):
            raise DataError(f"{where}: the name of the class {name!a} has the character {strange}; rename it")
    content = "".join(f"{normal(name)}\n" for name in names).encode()
    read_class_names(content, where)
    return content


def strange_character(name: str) -> str | None:
    """The first character that a class's name cannot have, as `U+0085`; None if there is none.

    These are control characters, line ends of every kind, marks of byte order, and bytes that are no text.
    """
    for character in name:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") or character == "\ufeff":
            return f"U+{ord(character):04X}"
    return None


def _decode(content: bytes, where: str) -> str:
    if content.startswith(UTF_16) or b"\0" in content:
        raise DataError(f"{where} is UTF-16 or no text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(LINE_END.findall(content[: error.start].decode("latin-1"))) + 1
        raise DataError(
            f"{where}:{line} is not UTF-8 (byte 0x{content[error.start]:02X}); save the file as UTF-8"
        ) from None
