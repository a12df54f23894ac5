"""Files that execute code when their own library opens them: refused, and nothing in them runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inceptionv4.errors import CheckpointError
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.weights.create import create_model
from inceptionv4.weights.load import read_model


class Bomb:
    """Makes the folder `sentinel` when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.sentinel),))


def _rewritten(good: Path, changes: dict[str, bytes], first: dict[str, bytes], prefix: bool = True) -> bytes:
    """The archive with members changed, some given twice, `first` with this content, or all of them at the root."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(buffer, "w") as target:
        names = source.namelist()
        root = names[0].partition("/")[0]
        for name in names:
            inner = name.removeprefix(f"{root}/")
            for found in (first.get(inner), changes.get(inner, source.read(name))):
                if found is not None:
                    target.writestr(name if prefix else inner, found)
        for inner in changes.keys() - {name.removeprefix(f"{root}/") for name in names}:
            target.writestr(f"{root}/{inner}", changes[inner])
    return buffer.getvalue()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A small .pt2 of torch's own, with a free batch dimension."""
    path = tmp_path / "good.pt2"
    free = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(3, 2),), dynamic_shapes=free)
    exported.example_inputs = None
    torch.export.save(exported, path)
    return path


def _pickled_weights(program: Path, bomb: bytes) -> dict[str, bytes]:
    """The weights' list, which says that they are pickled, and a weight that is."""
    with zipfile.ZipFile(program) as archive:
        name = next(name for name in archive.namelist() if name.endswith("model_weights_config.json"))
        config = json.loads(archive.read(name))
    for entry in config["config"].values():
        entry["use_pickle"] = True
    return {"data/weights/model_weights_config.json": json.dumps(config).encode(), "data/weights/weight_0": bomb}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("route", ["pickled", "library", "twice", "case", "root", "expression"])
@pytest.mark.parametrize("name", ["model.pt2", "MODEL.PT2", "model.pth"])
def test_a_pt2_is_refused_before_torch_opens_it(
    program: Path, tmp_path: Path, command: Callable[..., Any], route: str, name: str
) -> None:
    sentinel = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(sentinel))
    weights = _pickled_weights(program, bomb)
    with zipfile.ZipFile(program) as archive:
        model = next(archive.read(name) for name in archive.namelist() if name.endswith("models/model.json"))
    code = f"__import__('pathlib').Path({str(sentinel)!r}).touch()"
    content = {
        "pickled": lambda: _rewritten(program, weights, {}),
        "library": lambda: _rewritten(program, {"data/aotinductor/model/model.so": b"\x7fELF", **weights}, {}),
        "twice": lambda: _rewritten(program, {}, weights),
        "case": lambda: _rewritten(program, {name.replace("data/w", "data/W"): weights[name] for name in weights}, {}),
        "root": lambda: _rewritten(program, weights, {}, prefix=False),
        "expression": lambda: _rewritten(
            program, {"models/model.json": model.replace(b'"expr_str": "', f'"expr_str": "{code}'.encode())}, {}
        ),
    }[route]()
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_model, open_backend, create_model):
        with pytest.raises(CheckpointError, match=r"\.pt2 of torch\.export, which is not opened"):
            read(path)
    assert not sentinel.exists()


def test_the_pickled_route_does_execute_in_torch(program: Path, tmp_path: Path) -> None:
    """So that the test above cannot pass for a bomb that is none."""
    sentinel = tmp_path / "executed"
    program.write_bytes(_rewritten(program, _pickled_weights(program, pickle.dumps(Bomb(sentinel))), {}))
    with pytest.raises(Exception):  # noqa: B017, PT011 - what torch says of it afterwards does not matter
        torch.export.load(program)
    assert sentinel.exists()


def test_the_command_refuses_a_pt2(program: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    shutil.copy(program, tmp_path / "m.pt2")
    for arguments in (
        ("predict", tmp_path / "m.pt2", "examples/seven.png"),
        ("evaluate", tmp_path / "m.pt2", "--data", "digits"),
        ("convert", tmp_path / "m.pt2", tmp_path / "m.safetensors"),
        ("serve", tmp_path / "m.pt2"),
    ):
        result = command(*arguments)
        assert (result.code, "is not opened" in result.err) == (1, True), result.err
    result = command("export", "x", "--format", "pt2")
    assert (result.code, "pt2" in result.err) == (2, True), result.err
