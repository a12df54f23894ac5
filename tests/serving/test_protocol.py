"""The Open Inference Protocol by its text: requests and responses written out by hand."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest
import torch

from inceptionv4.errors import ServingError
from inceptionv4.serving.protocol import Inference, Protocol, Wanted
from inceptionv4.spec import ModelSpec, Preprocessing

SPEC = ModelSpec(classes=("ant", "bee", "Käfer"), preprocessing=Preprocessing(size=75))
ANSWERED = {"runtime": "a test, fp32", "precision": "fp32"}
PROTOCOL = Protocol("insects", SPEC, takes_floats=True, platform="pytorch", most_images=4, parameters=ANSWERED)
ONE_FILE = {"name": "files", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(b"jpeg").decode()]}
PIXELS = np.arange(2 * 75 * 75 * 3).reshape(2, 75, 75, 3).astype(np.uint8)
FLOATS = np.linspace(-1, 1, 3 * 75 * 75, dtype=np.float32).reshape(1, 3, 75, 75)


def read(request: Any, binary: bytes = b"", protocol: Protocol = PROTOCOL) -> Inference:
    head = request if isinstance(request, bytes) else json.dumps(request).encode()
    return protocol.read(bytearray(head + binary), str(len(head)) if binary else None)


def with_input(**changes: Any) -> dict[str, Any]:
    changed = {**ONE_FILE, **changes}
    return {"inputs": [{key: value for key, value in changed.items() if value is not None}]}


def pixels(data: Any, shape: Any = (2, 75, 75, 3)) -> dict[str, Any]:
    return {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": list(shape), "data": data}]}


def floats(data: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 3, 75, 75], "data": data}]}


def test_metadata() -> None:
    assert PROTOCOL.metadata() == {
        "name": "insects",
        "versions": ["1"],
        "platform": "pytorch",
        "inputs": [
            {"name": "files", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, 75, 75, 3]},
            {"name": "images", "datatype": "FP32", "shape": [-1, 3, 75, 75]},
        ],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "classes", "datatype": "BYTES", "shape": [-1]},
        ],
        "parameters": {"runtime": "a test, fp32", "precision": "fp32"},
    }


def test_a_model_of_pixels_alone_has_no_floats() -> None:
    protocol = Protocol("insects", SPEC, takes_floats=False, platform="ascend_om", most_images=4, parameters={})
    assert [tensor["name"] for tensor in protocol.metadata()["inputs"]] == ["files", "pixels"]  # type: ignore[attr-defined]
    with pytest.raises(ServingError, match=r"there is files \(BYTES\) or pixels \(UINT8\)"):
        read(floats(FLOATS.tolist()), protocol=protocol)


def test_files_in_json_and_in_binary() -> None:
    files = [b"\xff\xd8 one", b"", b"\x89PNG three"]
    encoded = [base64.b64encode(file).decode() for file in files]
    assert read(with_input(shape=[3], data=encoded)).images == files
    binary = b"".join(struct.pack("<I", len(file)) + file for file in files)
    request = with_input(shape=[3], data=None, parameters={"binary_data_size": len(binary)})
    assert read(request, binary).images == files


@pytest.mark.parametrize("path", ["id", "parameters", "outputs", "model_version", "inputs.parameters"])
def test_a_field_that_is_null_counts_as_not_given(path: str) -> None:
    request: dict[str, Any] = {"inputs": [dict(ONE_FILE)]}
    expected = read(request)
    *_, name = path.split(".")
    (request["inputs"][0] if "." in path else request)[name] = None
    assert read(request) == expected


def test_nulls_in_parameters_and_outputs_count_as_not_given() -> None:
    nothing = {"binary_data": None, "classification": None, "shared_memory_region": None, "of others": None}
    output = {"name": "logits", "parameters": nothing, "datatype": None}
    plain = {**with_input(), "outputs": [{"name": "logits"}]}
    assert read({**plain, "outputs": [output], "parameters": {"binary_data_output": None}}) == read(plain)
    assert read({**plain, "outputs": [{"name": "logits", "parameters": None}]}) == read(plain)
    binary = struct.pack("<I", 4) + b"jpeg"
    sized = with_input(data=None, parameters={"binary_data_size": len(binary)})
    sized["inputs"][0]["data"] = None
    assert read(sized, binary).images == [b"jpeg"]
    absent = with_input(parameters={"binary_data_size": 1})
    absent["inputs"][0]["parameters"]["binary_data_size"] = None
    assert read(absent).images == [b"jpeg"]


@pytest.mark.parametrize("name", ["name", "datatype", "shape", "data"])
def test_what_must_be_given_must_not_be_null(name: str) -> None:
    (tensor,) = (request := {"inputs": [dict(ONE_FILE)]})["inputs"]
    tensor[name] = None
    with pytest.raises(ServingError) as null:
        read(request)
    del tensor[name]
    with pytest.raises(ServingError) as missing:
        read(request)
    assert (null.value.status, str(null.value)) == (400, str(missing.value))
    with pytest.raises(ServingError, match="inputs must be a list of one"):
        read({"inputs": None})
    with pytest.raises(ServingError, match="strings of base64"):
        read(with_input(data=[None]))


@pytest.mark.parametrize("flat", [False, True])
def test_pixels_and_floats_in_json(flat: bool) -> None:
    given = read(pixels((PIXELS.flatten() if flat else PIXELS).tolist())).images
    assert isinstance(given, torch.Tensor)
    assert given.dtype == torch.uint8
    assert np.array_equal(given.numpy(), PIXELS.transpose(0, 3, 1, 2))
    given = read(floats((FLOATS.flatten() if flat else FLOATS).tolist())).images
    assert isinstance(given, torch.Tensor)
    assert given.dtype == torch.float32
    assert np.array_equal(given.numpy(), FLOATS)


@pytest.mark.parametrize("space", range(4))
def test_binary_tensors_at_any_place_in_memory(space: int) -> None:
    for request, array in ((pixels(None), PIXELS), (floats(None), FLOATS)):
        (tensor,) = request["inputs"]
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": array.nbytes}
        head = json.dumps(request).encode() + b" " * space
        given = PROTOCOL.read(bytearray(head + array.tobytes()), str(len(head))).images
        assert isinstance(given, torch.Tensor)
        expected = array.transpose(0, 3, 1, 2) if array is PIXELS else array
        assert np.array_equal(given.numpy(), expected)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"inputs": [NaN]}', "NaN is not in JSON"),
        (b"1" * 10_000, "not JSON"),
        (b"[]", "must be a JSON object"),
        ({}, "inputs must be a list of one"),
        ({"inputs": {}}, "inputs must be a list of one"),
        ({"inputs": [ONE_FILE, ONE_FILE]}, "inputs must be a list of one"),
        ({"inputs": ["files"]}, "inputs must be a list of one"),
        ({**with_input(), "id": 3}, "id must be a string"),
        ({**with_input(), "parameters": []}, "parameters must be an object"),
        (with_input(name="image"), r"no such input; there is files \(BYTES\), pixels \(UINT8\) or images \(FP32\)"),
        (with_input(name=["files"]), "no such input"),
        (with_input(datatype="UINT8"), "files is of datatype BYTES"),
        (with_input(shape=None), r"needs a shape \[N\]"),
        (with_input(shape=1), r"needs a shape \[N\]"),
        (with_input(shape=["1"]), r"needs a shape \[N\]"),
        (with_input(shape=[True]), r"needs a shape \[N\]"),
        (with_input(shape=[1.0]), r"needs a shape \[N\]"),
        (with_input(shape=[]), r"must be \[N\]"),
        (with_input(shape=[1, 1]), r"must be \[N\]"),
        (with_input(shape=[0]), "1 to 4 images"),
        (with_input(shape=[-1]), "1 to 4 images"),
        (with_input(shape=[5]), "1 to 4 images"),
        (with_input(shape=[10**30]), "1 to 4 images"),
        (with_input(shape=[2]), "2 elements, and data has 1"),
        (with_input(data=None), "either data or"),
        (with_input(data="anBn"), "data must be a list"),
        (with_input(data=[3]), "strings of base64"),
        (with_input(data=["*"]), "strings of base64"),
        (with_input(data=["ä"]), "strings of base64"),
        (with_input(data=[["anBn"]]), "strings of base64"),
        (with_input(parameters={"binary_data_size": 3}), "either data or"),
        (with_input(data=None, parameters={"binary_data_size": 3}), "0 bytes behind the JSON"),
        (with_input(data=None, parameters={"binary_data_size": "0"}), "0 bytes behind the JSON"),
        (with_input(data=None, parameters={"binary_data_size": False}), "0 bytes behind the JSON"),
        (with_input(data=None, parameters={"binary_data_size": 0}), "have another number"),
        (with_input(data=None, parameters={"shared_memory_region": "x"}), "shared memory is not offered"),
        (pixels([], (2, 75, 75, 4)), r"must be \[N, 75, 75, 3\]"),
        (pixels([], (2, 3, 75, 75)), r"must be \[N, 75, 75, 3\]"),
        (pixels([], (2, -75, -75, 3)), r"must be \[N, 75, 75, 3\]"),
        (pixels([]), "33750 values, and data has 0"),
        (pixels([[]] * 2), "not nested as"),
        (pixels([[[[0] * 3] * 75] * 74] * 2), "not nested as"),
        (pixels([[[[0] * 3] * 75] * 75] * 3), "33750 values, and data has 50625"),
        (pixels([0] * 33749 + [256]), "within 0 and 255"),
        (pixels([0] * 33749 + [-1]), "within 0 and 255"),
        (pixels([0] * 33749 + [10**400]), "within 0 and 255"),
        (pixels([0] * 33749 + [1.0]), "must be integers"),
        (pixels([0] * 33749 + [True]), "must be integers"),
        (pixels([0] * 33749 + ["1"]), "must be integers"),
        (pixels([0] * 33749 + [None]), "must be integers"),
        (pixels([0] * 33749 + [[1]]), "must be integers"),
        (floats([0.0] * 16874 + [{}]), "must be numbers"),
        (floats([0.0] * 16874 + [10**400]), "must be finite"),
        (floats([0.0] * 16874 + [1e39]), "must be finite"),
        (json.dumps(floats([0.0] * 16874 + [7])).replace("7]", "1e999]").encode(), "must be finite"),
        ({**with_input(), "outputs": "logits"}, "outputs must be a list"),
        ({**with_input(), "outputs": ["logits"]}, "outputs must be a list"),
        ({**with_input(), "outputs": [{"name": "softmax"}]}, r"no such output; there is logits \(FP32\), "),
        ({**with_input(), "outputs": [{"name": "logits"}] * 2}, "asked for twice"),
        ({**with_input(), "outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]}, "true or false"),
        ({**with_input(), "outputs": [{"name": "logits", "parameters": {"classification": 0}}]}, "classification"),
        ({**with_input(), "outputs": [{"name": "classes", "parameters": {"classification": 1}}]}, "classification"),
        ({**with_input(), "parameters": {"binary_data_output": "yes"}}, "true or false"),
    ],
)
def test_what_is_not_as_it_says_is_refused(request_: Any, reason: str) -> None:
    with pytest.raises(ServingError, match=reason) as refused:
        read(request_)
    assert refused.value.status == 400
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("name", "shape", "binary", "reason"),
    [
        ("files", [1], b"\1", "end within an element"),
        ("files", [1], b"\5\0\0\0jpeg", "end within an element"),
        ("files", [1], b"\xff\xff\xff\xffjpeg", "end within an element"),
        ("files", [2], b"\4\0\0\0jpeg", "have another number"),
        ("files", [1], b"\0\0\0\0" * 1000, "have another number"),
        ("pixels", [1, 75, 75, 3], b"\0" * 16874, "is 16875 bytes, and there are 16874"),
        ("images", [1, 3, 75, 75], b"\0" * 67504, "is 67500 bytes, and there are 67504"),
        ("images", [1, 3, 75, 75], b"\0" * 67496 + struct.pack("<f", float("nan")), "must be finite"),
        ("images", [1, 3, 75, 75], b"\0" * 67496 + struct.pack("<f", float("-inf")), "must be finite"),
    ],
)
def test_binary_data_that_do_not_fit_are_refused(name: str, shape: list[int], binary: bytes, reason: str) -> None:
    tensor = {"name": name, "datatype": PROTOCOL.inputs[name].datatype, "shape": shape}
    request = {"inputs": [{**tensor, "parameters": {"binary_data_size": len(binary)}}]}
    with pytest.raises(ServingError, match=reason) as refused:
        read(request, binary)
    assert refused.value.status == 400


@pytest.mark.parametrize("length", ["", "-1", "+3", "1e3", "٣", "9" * 25, "1000"])
def test_a_header_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(ServingError, match="Inference-Header-Content-Length"):
        PROTOCOL.read(bytearray(b"{}"), length)


@pytest.mark.parametrize("body", [bytes(17 * 2**20), b"[" + b"[]," * 2**20 + b"0,0]"])
def test_too_much_json_is_refused_before_it_is_parsed(body: bytes) -> None:
    with pytest.raises(ServingError, match="as binary data") as refused:
        PROTOCOL.read(bytearray(body), None)
    assert refused.value.status == 413


LOGITS = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 0.0]])
PROBABILITIES = np.exp(LOGITS.double().numpy()) / np.exp(LOGITS.double().numpy()).sum(1, keepdims=True)


def test_all_outputs_in_json_if_nothing_is_said() -> None:
    response = PROTOCOL.write(read({**with_input(), "id": "42"}), LOGITS)
    assert response.json_bytes is None
    answer = json.loads(response.body)
    probabilities = answer["outputs"][1].pop("data")
    assert answer == {
        "model_name": "insects",
        "model_version": "1",
        "id": "42",
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [2, 3], "data": [0, 1, 2, 5, 0, 0]},
            {"name": "probabilities", "datatype": "FP32", "shape": [2, 3]},
            {"name": "classes", "datatype": "BYTES", "shape": [2], "data": ["Käfer", "ant"]},
        ],
    }
    assert np.allclose(probabilities, PROBABILITIES.flatten(), atol=1e-6)


def test_outputs_as_asked_for_binary_ones_behind_the_json_in_their_order() -> None:
    wanted = [{"name": "classes", "parameters": {"binary_data": True}}, {"name": "logits"}, {"name": "probabilities"}]
    wanted[2]["parameters"] = {"binary_data": True}
    response = PROTOCOL.write(read({**with_input(), "outputs": wanted}), LOGITS)
    assert response.json_bytes is not None
    answer = json.loads(response.body[: response.json_bytes])
    assert "id" not in answer
    assert answer["outputs"] == [
        {"name": "classes", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 17}},
        {"name": "logits", "datatype": "FP32", "shape": [2, 3], "data": [0, 1, 2, 5, 0, 0]},
        {"name": "probabilities", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}},
    ]
    binary = response.body[response.json_bytes :]
    assert binary[:17] == b"\6\0\0\0K\xc3\xa4fer\3\0\0\0ant"
    assert np.allclose(struct.unpack("<6f", binary[17:]), PROBABILITIES.flatten(), atol=1e-6)


def test_binary_outputs_by_default_but_for_one() -> None:
    wanted = [{"name": "logits"}, {"name": "classes", "parameters": {"binary_data": False}}]
    request = {**with_input(), "parameters": {"binary_data_output": True}, "outputs": wanted}
    assert read(request).outputs == (Wanted("logits", True), Wanted("classes", False))


def test_the_likeliest_classes_with_their_names() -> None:
    wanted = [{"name": "probabilities", "parameters": {"classification": 2}}]
    answer = json.loads(PROTOCOL.write(read({**with_input(), "outputs": wanted}), LOGITS).body)
    first, second = PROBABILITIES[0, 2], PROBABILITIES[0, 1]
    assert answer["outputs"][0]["shape"] == [2, 2]
    assert answer["outputs"][0]["datatype"] == "BYTES"
    assert answer["outputs"][0]["data"][:2] == [f"{first:.6f}:2:Käfer", f"{second:.6f}:1:bee"]


def test_classes_that_are_no_text_do_not_hinder_an_answer() -> None:
    spec = ModelSpec(classes=("caf\udce9", "b"), preprocessing=Preprocessing(size=75))
    protocol = Protocol("m", spec, takes_floats=True, platform="pytorch", most_images=1, parameters={})
    asked = read({**with_input(), "parameters": {"binary_data_output": True}})
    assert protocol.write(asked, torch.tensor([[1.0, 0.0]])).body.endswith(b"\4\0\0\0caf\xe9")
    json.loads(protocol.write(read(with_input()), torch.tensor([[1.0, 0.0]])).body)
