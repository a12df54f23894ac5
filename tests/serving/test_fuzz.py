"""Requests that nobody would write: each is answered, and none with a 500."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import Running

QUICK = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NUMBERS = st.integers() | st.floats() | st.booleans() | st.integers(-2, 80)
SCALARS = st.none() | NUMBERS | st.text(max_size=8) | st.sampled_from(["files", "BYTES", "logits", "iVBORw0KGgo="])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3))


def nearly(value: Any) -> st.SearchStrategy[Any]:
    """`value`, or something else in its place."""
    return st.just(value) | JSON


SIZES = (1, 3, 75)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["files", "pixels", "images"]) | nearly("files"),
        "datatype": st.sampled_from(["BYTES", "UINT8", "FP32"]) | nearly("BYTES"),
        "shape": st.sampled_from([[1], [1, 75, 75, 3], [1, 3, 75, 75], [2**63], [-1]]) | st.lists(NUMBERS) | JSON,
    },
    optional={
        "data": st.sampled_from([["iVBORw0KGgo="], [0] * 16875, [[[[0.5] * 75] * 75] * 3], [1e38] * 16875]) | JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40) | JSON}) | JSON,
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, min_size=1, max_size=2) | JSON},
    optional={
        "id": nearly("1"),
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_output": nearly(True)}) | JSON,
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["logits", "probabilities", "classes"]) | JSON},
                optional={
                    "parameters": st.fixed_dictionaries(
                        {}, optional={"binary_data": nearly(False), "classification": nearly(2)}
                    )
                    | JSON
                },
            ),
            max_size=3,
        )
        | JSON,
    },
)


def check(running: Running, body: bytes, headers: dict[str, str] | None = None) -> None:
    reply = running.infer(body, headers)
    assert reply.status in (200, 400, 413), reply.body
    if reply.status != 200:
        assert isinstance(reply.json["error"], str)
        assert "Traceback" not in reply.json["error"]


@QUICK
@given(request=REQUESTS, binary=st.binary(max_size=40), header=st.booleans())
def test_requests_that_are_nearly_right(narrow_server: Running, request: Any, binary: bytes, header: bool) -> None:
    head = json.dumps(request).encode()
    check(narrow_server, head + binary, {"Inference-Header-Content-Length": str(len(head))} if header else None)


@QUICK
@given(body=st.binary(max_size=200), length=st.none() | st.integers().map(str) | st.just("1e9"))
def test_bytes_of_any_kind(narrow_server: Running, body: bytes, length: str | None) -> None:
    check(narrow_server, body, None if length is None else {"Inference-Header-Content-Length": length})


@QUICK
@given(body=JSON)
def test_json_of_any_kind(narrow_server: Running, body: Any) -> None:
    check(narrow_server, json.dumps(body).encode())


def test_it_still_answers(narrow_server: Running) -> None:
    assert narrow_server.ask("GET", f"/v2/models/{narrow_server.app.protocol.name}/ready").json["ready"] is True
