"""Our JSON: what any reader takes, and what is taken from anyone."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inceptionv4.strict_json import from_json, to_json

SOURCES = Path(__file__).parents[1] / "src/inceptionv4"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.sampled_from([None, 2]))
def test_what_is_written_is_read_by_pythons_reader_and_by_ours(value: Any, indent: int | None) -> None:
    text = to_json(value, indent=indent)
    assert json.loads(text.encode("utf-8")) == value == from_json(text) == from_json(text.encode())
    assert all(letter.isprintable() or letter in "\n " or ord(letter) >= 0xA0 for letter in text)


def test_names_keep_their_letters_and_lose_what_terminals_obey() -> None:
    assert to_json("日本é") == '"日本é"'
    assert to_json("caf\udce9 \x1b[2J\x9b \u2028\x7f") == r'"caf\udce9 \u001b[2J\u009b \u2028\u007f"'


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_number_that_is_none_is_written_or_read(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": [number]})
    with pytest.raises(ValueError, match="is not in JSON"):
        from_json(json.dumps([number]))


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"{", b"[1] 2", b'"\xff"', b"[" * 100_000, b'{"a":' * 100_000, b"[1e999]", b"[-1e999]", b"nul"],
)
def test_what_is_no_json_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are Python's
        from_json(content)


def test_nothing_of_ours_writes_json_by_itself() -> None:
    """All but the checksum of a checkpoint, whose text must stay what it was, and which is not kept."""
    found = {path.name: count for path in SOURCES.rglob("*.py") if (count := count_calls(path.read_text()))}
    assert found == {"strict_json.py": 1, "checkpoint.py": 1}


def count_calls(source: str) -> int:
    attributes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return sum(ast.unparse(node) in ("json.dump", "json.dumps") for node in attributes)
