"""A MINDIR is a graph that MindSpore runs and that answers as the model does; nothing else is left behind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from inceptionv4.errors import CheckpointError, UsageError
from inceptionv4.export import mindspore as export
from inceptionv4.runtime.exported import read_sidecar
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.load import load_model, read_model

KEY = b"0123456789abcdef"


def answer(path: Path, images: np.ndarray, **key: bytes) -> np.ndarray:
    os.environ["GLOG_v"] = "3"
    import mindspore

    return mindspore.nn.GraphCell(mindspore.load(str(path), **key))(mindspore.Tensor(images)).asnumpy()


@torch.no_grad()
def expect(model: Path, images: np.ndarray) -> np.ndarray:
    """What the plain network answers."""
    network, _ = load_model(model)
    return network(torch.from_numpy(images)).numpy()


def test_the_graph_answers_as_the_model_does(
    narrow_model: Path, narrow_spec: ModelSpec, tmp_path: Path, command: Callable[..., object]
) -> None:
    path = tmp_path / "narrow.mindir"
    result = command("export", narrow_model, "--format", "mindir", "--output", path, "--batch-size", 2)
    assert result.code == 0, result.err
    assert f"{path}: mindir, fp32" in result.out
    assert "logits within" in result.out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["narrow.mindir", "narrow.mindir.json"]
    images = np.random.default_rng(5).standard_normal((2, 3, 75, 75), np.float32)
    np.testing.assert_allclose(answer(path, images), expect(narrow_model, images), rtol=0, atol=1e-4)
    metadata = read_sidecar(path)
    assert metadata.spec == narrow_spec
    assert (metadata.batch_size, metadata.format) == (2, "mindir")
    assert metadata.verification is not None
    with pytest.raises(CheckpointError, match="is a MINDIR, a graph to be run"):
        read_model(path)
    path.with_name("narrow.mindir.json").unlink()
    result = command("evaluate", path, "--data", "digits")
    assert (result.code, "needs narrow.mindir.json beside it" in result.err) == (1, True)


def test_the_graph_is_the_rewritten_network(narrow_model: Path, tmp_path: Path, command: Callable[..., object]) -> None:
    """149 convolutions and no norm; before each average pool, a projection."""
    from mindspore.train.mind_ir_pb2 import ModelProto

    path = tmp_path / "narrow.mindir"
    assert command("export", narrow_model, "--format", "mindir", "--output", path).code == 0
    model = ModelProto()
    model.ParseFromString(path.read_bytes())
    kinds = {node.output[0]: node.op_type.split(":")[-2] for node in model.graph.node if "::" in node.op_type}
    made = Counter(kinds.values())
    assert (made["Conv2D"], made["ReLU"], made["AvgPool"], made["BatchNorm"]) == (149, 149, 14, 0)
    assert len(model.graph.parameter) == 2 * 150
    pools = [node for node in model.graph.node if kinds.get(node.output[0]) == "AvgPool"]
    assert {kinds[node.input[0]] for node in pools} == {"BiasAdd"}


def test_with_a_key_it_is_encrypted(narrow_model: Path, tmp_path: Path, command: Callable[..., object]) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY + b"\n")
    path = tmp_path / "x.mindir"
    result = command("export", narrow_model, "--format", "mindir", "--output", path, "--encrypt-key-file", key)
    assert result.code == 0, result.err
    assert "mindir, fp32, encrypted" in result.out
    assert b"MindSpore" not in path.read_bytes()[:4096]
    images = np.random.default_rng(5).standard_normal((1, 3, 75, 75), np.float32)
    answers = answer(path, images, dec_key=KEY)
    np.testing.assert_allclose(answers, expect(narrow_model, images), rtol=0, atol=1e-4)
    key.write_bytes(b"short")
    before = path.read_bytes()
    result = command("export", narrow_model, "--format", "mindir", "--output", path, "--encrypt-key-file", key)
    assert (result.code, "has 5 bytes; AES takes 16, 24 or 32" in result.err) == (2, True)
    assert path.read_bytes() == before
    with pytest.raises(UsageError, match="cannot read the key"):
        export.read_key(tmp_path / "nothing")


def test_air_needs_an_ascend_and_says_so(narrow_model: Path, tmp_path: Path, command: Callable[..., object]) -> None:
    result = command("export", narrow_model, "--format", "air", "--output", tmp_path / "x.air")
    assert result.code == 2
    assert "only where there is an Ascend" in result.err
    assert "deprecated" in result.err
    assert list(tmp_path.iterdir()) == []
    for arguments, words in (
        (("--format", "mindir", "--output", tmp_path / "x.bin"), "must end in .mindir"),
        (("--format", "mindir", "--batch-size", 0), "--batch-size must be at least 1"),
        (("--format", "air", "--encrypt-key-file", tmp_path / "k"), "is for --format mindir"),
    ):
        result = command("export", narrow_model, *arguments)
        assert (result.code, words in result.err) == (2, True)
