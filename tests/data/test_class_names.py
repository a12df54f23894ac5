"""What is taken for the names of classes, against tables written by hand."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inceptionv4.class_names import (
    class_numbers,
    normal,
    read_class_names,
    refuse_two_spellings,
    write_class_names,
)
from inceptionv4.errors import DataError

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\n",
        b"cat\ndog",
        b"cat\r\ndog\r\n",
        b"cat\rdog\r",
        b"cat\rdog\r\n\n",
        b"\xef\xbb\xbfcat\ndog\n",
        b"cat\ndog\n\n \n\t\n",
        b"cat \ndog\t \n",
        b" cat\n\tdog\n",
    ],
)
def test_the_same_names_in_every_usual_form(content: bytes) -> None:
    assert read_class_names(content, "classes.txt") == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"dog\ncat\n", ("dog", "cat")),
        (b"Cat\ncat\nCAT\n", ("Cat", "cat", "CAT")),
        (b"0 cat\n1 dog\n", ("0 cat", "1 dog")),
        (f"{NFD}\n{NFC}s\n".encode(), (NFC, f"{NFC}s")),
        ("\u732b\n\U0001f415\na\u00a0b\n".encode(), ("\u732b", "\U0001f415", "a\u00a0b")),
        (b"one\n", ("one",)),
    ],
)
def test_names_keep_their_order_and_case(content: bytes, names: tuple[str, ...]) -> None:
    assert read_class_names(content, "classes.txt") == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat\ndog\n".encode("utf-16"), "c.txt is UTF-16 or no text; save it as UTF-8"),
        ("cat\ndog\n".encode("utf-16-be"), "c.txt is UTF-16 or no text"),
        ("cat\ndog\n".encode("utf-32"), "c.txt is UTF-16 or no text"),
        (b"dog\r\ncaf\xe9\n", "c.txt:2 is not UTF-8 (byte 0xE9); save the file as UTF-8"),
        (b"\xed\xb3\xa9\ncat\n", "c.txt:1 is not UTF-8"),
        (b"", "c.txt is empty"),
        (b"\xef\xbb\xbf\r\n\n", "c.txt is empty"),
        (b"cat\n\ndog\n", "c.txt:2 is blank, though names follow"),
        (b"\ncat\n", "c.txt:1 is blank"),
        (b"cat\ndog\ncat\n", "c.txt names 'cat' twice, in lines 1 and 3"),
        (b"cat\ncat \n", "c.txt names 'cat' twice, in lines 1 and 2"),
        (f"{NFC}\ndog\n{NFD}\n".encode(), f"c.txt names '{NFC}' twice, in lines 1 and 3"),
        ("cat\u2028x\ndog\n".encode(), r"c.txt:1: the name 'cat\u2028x' has the character U+2028"),
        ("dog\ncat\u0085\n".encode(), r"c.txt:2: the name 'cat\x85' has the character U+0085"),
        (b"cat\x0bdog\n", "has the character U+000B"),
        (b"cat\tdog\n", "has the character U+0009"),
        ("cat\n\ufeffdog\n".encode(), "c.txt:2: the name '\\ufeffdog' has the character U+FEFF"),
    ],
)
def test_what_is_no_list_of_names_is_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_class_names(content, "c.txt")


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        names = read_class_names(content, "c.txt")
    except DataError:
        return
    assert len(set(names)) == len(names) > 0
    assert read_class_names(write_class_names(names, "c"), "c.txt") == names


@given(st.lists(st.text(max_size=5), max_size=4))
def test_what_is_written_is_read_as_the_same_names(names: list[str]) -> None:
    try:
        content = write_class_names(names, "photos")
    except DataError:
        return
    assert read_class_names(content, "c.txt") == tuple(map(normal, names))


@pytest.mark.parametrize("name", ["a\nb", "a\r", "a ", " a", "", "a\u2028b", "a\x85", "\udce9", "a\tb"])
def test_a_name_that_would_be_read_as_another_is_not_written(name: str) -> None:
    with pytest.raises(DataError, match=r"^photos: .*; rename it"):
        write_class_names(["cat", name], "photos")


def test_two_spellings_of_one_name() -> None:
    assert normal(NFD) == normal(NFC) == NFC
    assert class_numbers([NFD, NFC, "b", "B"]) == {"B": 0, "b": 1, NFC: 2}
    refuse_two_spellings([NFD, NFD, "cafe", "Cafe"], "photos")
    with pytest.raises(DataError, match=re.escape(r"photos has the class 'café' in two spellings, 'caf\xe9' and ")):
        refuse_two_spellings(["dog", NFC, NFD], "photos")
