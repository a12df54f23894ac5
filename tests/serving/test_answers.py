"""The same answer, whichever way an image comes: as `Classifier` gives it, in every runtime, to Triton's client."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton
from running import MeanBackend, Running, serving
from test_zoo import zoo
from tritonclient.utils import InferenceServerException

from inceptionv4.data.decode import decode
from inceptionv4.data.transforms import evaluation_crop
from inceptionv4.export.export import export_model
from inceptionv4.export.options import ExportOptions
from inceptionv4.inference.classifier import Classifier
from inceptionv4.inference.images import NamedImage
from inceptionv4.inference.runtimes import open_backend

MODEL = "inceptionv4"


@pytest.fixture(scope="module")
def animals() -> list[bytes]:
    """Eight orientations of seven modes."""
    return [content for _, content in zoo()]


@pytest.fixture(scope="module")
def expected(telling_model: Path, animals: list[bytes]) -> np.ndarray:
    """Probabilities `(56, 3)` of the zoo."""
    probabilities = classified(telling_model, animals)
    assert np.abs(probabilities - probabilities[0]).max() > 0.05
    return probabilities


def classified(model: Path, contents: list[bytes]) -> np.ndarray:
    """Probabilities that `Classifier` gives."""
    images = [NamedImage(str(number), lambda content=content: content) for number, content in enumerate(contents)]
    classifier = Classifier.load(model, device="cpu")
    rows = []
    for prediction in classifier(images, top=3):
        by_label = {guess.label: guess.probability for guess in prediction.top}
        rows.append([by_label[label] for label in classifier.spec.classes])
    return np.array(rows)


@pytest.fixture(scope="module")
def prepared(narrow_server: Running, animals: list[bytes]) -> np.ndarray:
    """The zoo as a client prepares it: uint8 `(56, 75, 75, 3)`."""
    preprocessing = narrow_server.app.protocol.spec.preprocessing
    return np.stack([evaluation_crop(decode(content, "it"), preprocessing) for content in animals])


def probabilities_of(reply: Any) -> np.ndarray:
    (output,) = reply["outputs"]
    assert (output["name"], output["datatype"]) == ("probabilities", "FP32")
    return np.array(output["data"]).reshape(output["shape"])


def test_the_zoo_posted_file_by_file(narrow_server: Running, animals: list[bytes], expected: np.ndarray) -> None:
    classes = narrow_server.app.protocol.spec.classes
    for content, row in zip(animals, expected, strict=True):
        reply = narrow_server.ask("POST", "/predict?top=3", content)
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
        guesses = reply.json["predictions"]
        assert [guess["class"] for guess in guesses] == [classes[number] for number in np.argsort(-row)]
        assert np.allclose([guess["probability"] for guess in guesses], np.sort(row)[::-1], atol=1e-4)


def test_the_zoo_in_json(
    narrow_server: Running, animals: list[bytes], prepared: np.ndarray, expected: np.ndarray
) -> None:
    preprocessing = narrow_server.app.protocol.spec.preprocessing
    files = [base64.b64encode(content).decode() for content in animals]
    some = slice(0, 56, 7)
    floats = (prepared / 255 - preprocessing.mean) / preprocessing.std
    for name, datatype, data in (
        ("files", "BYTES", np.array(files)),
        ("pixels", "UINT8", prepared[some]),
        ("images", "FP32", floats[some].transpose(0, 3, 1, 2)),
    ):
        tensor = {"name": name, "datatype": datatype, "shape": list(data.shape), "data": data.tolist()}
        reply = narrow_server.infer({"inputs": [tensor], "outputs": [{"name": "probabilities"}]})
        assert reply.status == 200, reply.body
        assert np.abs(probabilities_of(reply.json) - expected[:: 56 // len(data)]).max() < 1e-4, name


@pytest.fixture(scope="module")
def client(narrow_server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(narrow_server.address) as client:
        yield client


def test_tritons_client_finds_its_way(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("another")
    assert not client.is_model_ready(MODEL, "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(MODEL)
    assert metadata["platform"] == "pytorch"
    assert metadata["parameters"]["precision"] == "fp32"
    assert metadata["parameters"]["runtime"].startswith("PyTorch, ")
    assert {tensor["name"]: tensor["shape"] for tensor in metadata["inputs"]} == {
        "files": [-1],
        "pixels": [-1, 75, 75, 3],
        "images": [-1, 3, 75, 75],
    }
    with pytest.raises(InferenceServerException, match="no such model; there is inceptionv4"):
        client.get_model_metadata("another")


@pytest.mark.parametrize("binary", [True, False])
def test_the_zoo_from_tritons_client(
    client: triton.InferenceServerClient,
    narrow_server: Running,
    animals: list[bytes],
    prepared: np.ndarray,
    expected: np.ndarray,
    binary: bool,
) -> None:
    preprocessing = narrow_server.app.protocol.spec.preprocessing
    floats = ((prepared / 255 - preprocessing.mean) / preprocessing.std).astype(np.float32)
    inputs = [("files", "BYTES", np.array(animals, object)), ("pixels", "UINT8", prepared)]
    inputs.append(("images", "FP32", floats.transpose(0, 3, 1, 2)))
    for name, datatype, array in inputs:
        given = triton.InferInput(name, list(array.shape), datatype)
        given.set_data_from_numpy(np.ascontiguousarray(array))
        wanted = [triton.InferRequestedOutput(of, binary_data=binary) for of in ("classes", "probabilities")]
        result = client.infer(MODEL, [given], outputs=wanted, request_id=name)
        answer = result.get_response()
        assert answer["id"] == name
        assert [output["name"] for output in answer["outputs"]] == ["classes", "probabilities"]
        assert np.abs(result.as_numpy("probabilities") - expected).max() < 1e-4, name
        labels = [narrow_server.app.protocol.spec.classes[number] for number in expected.argmax(1)]
        named = result.as_numpy("classes").tolist()
        assert [label.decode() if isinstance(label, bytes) else label for label in named] == labels
        assert result.as_numpy("logits") is None


def test_tritons_client_with_nothing_said_of_outputs(
    client: triton.InferenceServerClient, prepared: np.ndarray, expected: np.ndarray
) -> None:
    given = triton.InferInput("pixels", [3, 75, 75, 3], "UINT8")
    given.set_data_from_numpy(prepared[:3])
    result = client.infer(MODEL, [given])
    logits = torch.from_numpy(result.as_numpy("logits").copy())
    assert np.abs(logits.softmax(1).numpy() - expected[:3]).max() < 1e-4
    best = triton.InferRequestedOutput("probabilities", class_count=2)
    named = client.infer(MODEL, [given], outputs=[best]).as_numpy("probabilities")
    assert named.shape == (3, 2)
    value, number, _label = named[0, 0].decode().split(":")
    assert float(value) == pytest.approx(expected[0].max(), abs=1e-4)
    assert int(number) == expected[0].argmax()


def test_tritons_client_is_told_what_is_wrong(client: triton.InferenceServerClient, prepared: np.ndarray) -> None:
    given = triton.InferInput("files", [2], "BYTES")
    given.set_data_from_numpy(np.array([prepared[0].tobytes(), b""], object))
    with pytest.raises(InferenceServerException, match="file [12] "):
        client.infer(MODEL, [given])


@pytest.mark.parametrize(("form", "ending"), [("onnx", "onnx"), ("openvino", "xml")])
def test_exported_files_are_served(
    telling_model: Path,
    textures: Path,
    tmp_path: Path,
    animals: list[bytes],
    expected: np.ndarray,
    form: Any,
    ending: str,
) -> None:
    """And answer the whole zoo as the model does."""
    path = tmp_path / f"m.{ending}"
    # With one of them: pixels, and a fixed number of images.
    special = {"pixels": True, "batch_size": 4} if form == "onnx" else {}
    export_model(str(telling_model), ExportOptions(format=form, output=path, validate=str(textures), **special))
    difference = np.abs(classified(path, animals) - expected).max()
    print(f"{len(animals)} files, probabilities within {difference:.1e} of PyTorch's")
    assert difference < 1e-4
    some = animals[:49:8]  # 7 of them
    expected = expected[:49:8]
    with serving(open_backend(path, device="cpu")) as running:
        assert form in running.ask("GET", f"/v2/models/{MODEL}").json["platform"]
        binary = b"".join(struct.pack("<I", len(content)) + content for content in some)
        tensor = {"name": "files", "datatype": "BYTES", "shape": [len(some)]}
        tensor["parameters"] = {"binary_data_size": len(binary)}
        head = json.dumps({"inputs": [tensor], "outputs": [{"name": "probabilities"}]}).encode()
        reply = running.infer(head + binary, {"Inference-Header-Content-Length": str(len(head))})
        assert np.abs(probabilities_of(reply.json) - expected).max() < 1e-4
        guess = running.ask("POST", "/predict?top=1", animals[0]).json["predictions"][0]
        assert guess["probability"] == pytest.approx(expected[0].max(), abs=1e-4)
        floats = {"name": "images", "datatype": "FP32", "shape": [1, 3, 75, 75], "data": [0.0] * 16875}
        reply = running.infer({"inputs": [floats]})
        assert reply.status == (400 if special else 200)


def test_requests_at_once_are_gathered_and_each_gets_its_own_answer(
    narrow_server: Running, telling_model: Path, textures: Path
) -> None:
    contents = [path.read_bytes() for path in sorted((textures / "val").rglob("*.jpg"))]
    expected = classified(telling_model, contents)
    assert len(np.unique(expected.round(4), axis=0)) == len(contents) == 45

    def ask(content: bytes) -> np.ndarray:
        tensor = {"name": "files", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(content).decode()]}
        return probabilities_of(narrow_server.infer({"inputs": [tensor], "outputs": [{"name": "probabilities"}]}).json)

    with ThreadPoolExecutor(16) as pool:
        answers = np.concatenate(list(pool.map(ask, contents)))
    assert np.abs(answers - expected).max() < 1e-4


def test_while_the_model_is_busy_others_gather(backend: MeanBackend) -> None:
    def ask(value: int) -> list[float]:
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 75, 75, 3], "data": [value] * 16875}
        return running.infer({"inputs": [tensor], "outputs": [{"name": "logits"}]}).json["outputs"][0]["data"]

    with serving(backend) as running, ThreadPoolExecutor(17) as pool:
        backend.batches.clear()
        backend.free.clear()
        answers = [pool.submit(ask, value) for value in range(17)]
        while running.app.service.batcher.admitted < 17:
            pass
        backend.free.set()
        for value, answer in enumerate(answers):
            assert answer.result() == pytest.approx([value / 100, value / 50, value / 25])
        assert sum(backend.batches) == 17
        assert len(backend.batches) <= 8
        assert max(backend.batches) == 4
        assert running.figure("inceptionv4_images_total") == 17
        assert running.figure('inceptionv4_requests_total{endpoint="infer",status="200"}') == 17
        assert running.figure("inceptionv4_batch_images_count") == len(backend.batches)
        assert running.figure("inceptionv4_queue_images") == 0


@pytest.mark.parametrize(
    ("query", "status"), [("", 200), ("?top=1", 200), ("?top=99", 200), ("?top=0", 400), ("?top=-1", 400)]
)
def test_how_many_classes(narrow_server: Running, animals: list[bytes], query: str, status: int) -> None:
    reply = narrow_server.ask("POST", f"/predict{query}", animals[0])
    assert reply.status == status
    if status == 200:
        assert len(reply.json["predictions"]) == (1 if query == "?top=1" else 3)


@pytest.mark.parametrize("query", ["?top=x", "?top=1.5", "?top=", "?tpo=3", "?top=%D9%A3"])
def test_parameters_that_are_none(narrow_server: Running, animals: list[bytes], query: str) -> None:
    reply = narrow_server.ask("POST", f"/predict{query}", animals[0])
    assert reply.status == 400
    assert "top" in reply.json["error"]
