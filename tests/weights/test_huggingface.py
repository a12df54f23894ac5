"""Models on the hub: fetched through huggingface_hub, from an endpoint of one's own, and offline from its cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.write import write_folder

NAME = "timm/inception_v4.tf_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    spec = ModelSpec(classes=("a", "b"), preprocessing=Preprocessing(size=75, crop=1.0))
    path = tmp_path_factory.mktemp("hub")
    write_folder(Checkpoint(InceptionV4(2).state_dict(), spec), path)
    return path


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> Iterator[str]:
    """As much of the hub as fetching a file asks for."""

    class Hub(BaseHTTPRequestHandler):
        def answer(self, send: bool) -> None:
            name = self.path.rpartition("/")[2]
            if not self.path.startswith(f"/{NAME}/resolve/main/") or not (folder / name).is_file():
                self.send_response(404)
                missing = "EntryNotFound" if self.path.startswith(f"/{NAME}/") else "RepoNotFound"
                self.send_header("X-Error-Code", missing)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = (folder / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{name}-1"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if send:
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.answer(send=False)

        def do_GET(self) -> None:
            self.answer(send=True)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def predict(model: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its environment once."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "inceptionv4", "predict", model, "examples/seven.png"],
        cwd=Path(__file__).parents[2],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_model_is_fetched_from_the_endpoint_and_then_used_offline(endpoint: str, tmp_path: Path) -> None:
    home = str(tmp_path / "hf")
    first = predict(f"hf-hub:{NAME}", HF_ENDPOINT=endpoint, HF_HOME=home)
    assert first.returncode == 0, first.stderr
    offline = predict(f"hf-hub:{NAME}", HF_HUB_OFFLINE="1", HF_HOME=home)
    assert offline.returncode == 0, offline.stderr
    assert offline.stdout == first.stdout
    assert "examples/seven.png" in first.stdout


@pytest.mark.parametrize(
    ("model", "environment"),
    [
        ("hf-hub:timm/nothing", {}),
        (f"hf-hub:{NAME}", {"HF_HUB_OFFLINE": "1"}),
        # The hub's library asks again and again, for 23 s.
        pytest.param(f"hf-hub:{NAME}", {"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.slow),
    ],
)
def test_what_is_not_there_or_not_reached_says_so(
    endpoint: str, tmp_path: Path, model: str, environment: dict[str, str]
) -> None:
    result = predict(model, **{"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), **environment})
    assert (result.returncode, f"cannot fetch {model}" in result.stderr) == (2, True), result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_of_the_hub_is_converted_again_and_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    """From the hub's own cache, offline. The second time there is an output, which is no source."""
    model = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text(COMMIT)
    (model / "snapshots" / COMMIT).mkdir(parents=True)
    (model / "blobs").mkdir()
    for number, name in enumerate(("config.json", "model.safetensors")):
        shutil.copy(folder / name, model / f"blobs/{number}")
        (model / "snapshots" / COMMIT / name).symlink_to(f"../../blobs/{number}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for output in (tmp_path / "ours.safetensors", tmp_path / "folder"):
        results = [command("convert", f"hf-hub:{NAME}", output) for _ in range(2)]
        assert [result.code for result in results] == [0, 0], results[1].err
        assert results[0].out == results[1].out
    for source in (model / "snapshots" / COMMIT, f"hf-hub:{NAME}"):
        for output in (model / "blobs/1", model / "snapshots" / COMMIT):
            result = command("convert", source, output, "--to", "huggingface" if output.is_dir() else "timm")
            assert (result.code, f"{output} is the source; name another" in result.err) == (2, True)
