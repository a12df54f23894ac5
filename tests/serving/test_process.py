"""`inceptionv4 serve` as a process: what it says, how it ends, and what it refuses to begin."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from test_limits import png, read_all

from inceptionv4.cli.serve import NEEDED
from inceptionv4.serving.batching import WARM_UP_SECONDS
from inceptionv4.serving.limits import CONNECTIONS, HEAD_SECONDS, MAX_IMAGES, SPARE_DESCRIPTORS, UPLOAD_SECONDS, Limits
from inceptionv4.serving.server import KEEP_ALIVE_SECONDS

ROOT = Path(__file__).parents[2]
SLOW = (sys.executable, str(Path(__file__).parent / "slow_server.py"))
STUCK = (sys.executable, str(Path(__file__).parent / "stuck_server.py"))


@contextlib.contextmanager
def started(*command: str, cwd: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """A process that said that it is ready, its port, and what it said."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)
    assert process.stdout is not None
    said = ""
    try:
        while "ready" not in said:
            line = process.stdout.readline()
            assert line, process.stderr and process.stderr.read()
            said += line
        found = re.search(r"ready: http://127.0.0.1:(\d+)", said)
        assert found
        yield process, int(found[1]), said
    finally:
        process.kill()
        process.communicate()


def ask(port: int, *, path: str = "/predict", body: bytes | None = None) -> int:
    """The status of a request on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        response.read()
        return response.status


def figure(port: int, name: str) -> float:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text = response.read().decode()
    return float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0])


def busy(port: int, pool: ThreadPoolExecutor, count: int) -> list[Future[int]]:
    """Requests that the server has accepted and not answered."""
    answers = [pool.submit(ask, port, body=png()) for _ in range(count)]
    while figure(port, "inceptionv4_queue_images") < count:
        time.sleep(0.01)
    return answers


def test_a_model_is_served_until_sigterm_which_ends_well(telling_model: Path) -> None:
    command = (sys.executable, "-m", "inceptionv4", "serve", str(telling_model), "--port", "0", "--name", "textures")
    with started(*command) as (process, port, said):
        assert re.search(
            r"3 classes, 75 px.*\nwarming up\non (PyTorch|OpenVINO|ONNX Runtime), .*(fp32|bf16).*\nready: ", said
        )
        assert f"http://127.0.0.1:{port}/v2/models/textures" in said
        with urlopen(Request(f"http://127.0.0.1:{port}/predict?top=2", png(), method="POST")) as response:
            assert len(json.loads(response.read())["predictions"]) == 2
        assert ask(port, path="/v2/models/textures/ready") == 200
        assert ask(port, path="/v2/models/inceptionv4/ready") == 404
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 0), (signal.SIGINT, 130), pytest.param(signal.SIGHUP, 0, marks=pytest.mark.slow)],
)
def test_what_was_accepted_is_answered_before_the_end(number: signal.Signals, code: int) -> None:
    with started(*SLOW) as (process, port, _), ThreadPoolExecutor(4) as pool:
        kept = HTTPConnection("127.0.0.1", port, timeout=30)
        kept.request("GET", "/v2/health/ready")
        kept.getresponse().read()
        never_ends = socket.create_connection(("127.0.0.1", port))
        never_ends.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        answers = busy(port, pool, 4)
        process.send_signal(number)
        assert not answers[-1].done()
        while True:  # nothing new is accepted
            try:
                assert ask(port, path="/v2/health/ready") in (200, 503)
            except OSError:
                break
        assert [answer.result() for answer in answers] == [200] * 4
        with never_ends:
            refusal = read_all(never_ends)
        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in refusal
        assert refusal.endswith(b'{"error": "the server is about to stop"}')
        process.wait(20)
        assert process.returncode == code
        kept.close()


def test_a_second_signal_ends_at_once() -> None:
    with started(*SLOW) as (process, port, _), ThreadPoolExecutor(8) as pool:
        answers = busy(port, pool, 8)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert time.monotonic() - start < 3
        assert process.returncode == 143
        failed = [answer for answer in answers if answer.exception() is not None or answer.result() != 200]
        assert len(failed) >= 4


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 0, ""), (signal.SIGINT, 130, "stopped; all that was accepted is answered\n")],
)
def test_a_thread_that_never_ends_does_not_hold_up_the_end(number: signal.Signals, code: int, said: str) -> None:
    with started(*STUCK, "decoding", "--timeout", "0.5") as (process, port, _):
        assert ask(port, body=png()) == 503
        assert figure(port, "inceptionv4_queue_images") == 0
        start = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - start < 4
        assert (process.returncode, out, err) == (code, "", said)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_second_signal_waits_for_no_thread(number: signal.Signals, code: int) -> None:
    with started(*STUCK, "decoding") as (process, port, _), ThreadPoolExecutor(1) as pool:
        (answer,) = busy(port, pool, 1)
        process.send_signal(number)
        time.sleep(0.5)
        assert process.poll() is None
        start = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - start < 2
        assert (process.returncode, err) == (code, "stopped at once by a second signal\n")
        assert answer.exception() is not None


@contextlib.contextmanager
def warming() -> Iterator[subprocess.Popen[str]]:
    """A server that warms up for ever."""
    process = subprocess.Popen((*STUCK, "warming"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while "warming up" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.5)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_before_it_is_ready_ends_it_in_order(number: signal.Signals, code: int) -> None:
    with warming() as process:
        start = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - start < WARM_UP_SECONDS + 2
        assert (process.returncode, out, err) == (code, "", "stopped before it was ready\n")


def test_a_second_signal_before_it_is_ready_ends_it_at_once() -> None:
    with warming() as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - start < WARM_UP_SECONDS / 2
        assert (process.returncode, err) == (143, "stopped at once by a second signal\n")


@pytest.mark.parametrize(
    ("limit", "stay"),
    [pytest.param("ulimit -n 640", 640 - SPARE_DESCRIPTORS, marks=pytest.mark.slow), ("ulimit -S -n 256", 700)],
)
def test_silent_connections_keep_nobody_else_out(limit: str, stay: int) -> None:
    """They are more than the descriptors that the process may have, or has until it asks for more."""
    command = ("bash", "-c", f'{limit}; exec "$@"', "bash", *SLOW)
    with started(*command) as (process, port, _), contextlib.ExitStack() as opened:
        silent = [opened.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(700)]
        for _ in range(3):
            start = time.monotonic()
            assert ask(port, path="/v2/health/live") == 200
            assert time.monotonic() - start < 1
        assert ask(port, body=png()) == 200
        assert stay - 3 <= sum(map(is_open, silent)) <= stay
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")


def is_open(silent: socket.socket) -> bool:
    """Whether the other side has kept a connection on which it says nothing."""
    silent.setblocking(False)
    try:
        silent.recv(1)
    except BlockingIOError:
        return True
    except ConnectionResetError:
        pass
    return False


def test_what_cannot_be_served_is_said_before_a_model_is_loaded(command: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = command("serve", "no/such/model", "--port", port)
        assert result.code == 2
        assert f"cannot serve at 127.0.0.1, port {port}" in result.err
        assert "--port" in result.err
    for options, word in (
        (("--host", "no.such.host.invalid"), "cannot serve at no.such.host.invalid"),
        (("--port", "99999"), "port 99999"),
        (("--queue", "0"), "--queue must be above 0"),
        (("--timeout", "nan"), "--timeout must be above 0"),
        (("--max-upload", "-1"), "--max-upload must be above 0"),
        (("--name", "a/b"), "--name must be one part"),
        (("--port", "0"), "no/such/model"),
    ):
        result = command("serve", "no/such/model", *options)
        assert result.code == 2, result.err
        assert word in result.err


def test_without_its_libraries_it_says_what_to_install(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "uvicorn" else find(name, *rest)
    )
    result = command("serve", "runs/digits")
    assert result.code == 2
    assert result.err == "error: uvicorn is not installed: pip install 'inceptionv4[serve]'\n"


def test_the_extra_names_what_is_needed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {re.split(r"[<>=]", line)[0].replace("-", "_") for line in project["optional-dependencies"]["serve"]}
    assert required == set(NEEDED)


def test_help_and_the_other_commands_do_without_it() -> None:
    code = (
        "import sys; from inceptionv4.cli import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_the_pages_commands_and_lines(telling_model: Path, textures: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs/serve.md").read_text(encoding="utf-8")
    checkpoints = tmp_path / "runs/finetune/1/checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(telling_model, checkpoints / "best.safetensors")
    shutil.copytree(textures / "val", tmp_path / "photos")
    start, curl = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    command = shlex.split(start.splitlines()[0], comments=True)
    with started(sys.executable, "-m", *command, "--port", "0", cwd=tmp_path) as (_, port, _):
        arguments = shlex.split(curl)
        assert arguments[:2] == ["curl", "--data-binary"]
        content = (tmp_path / arguments[2].removeprefix("@")).read_bytes()
        url = arguments[3].replace(":8000", f":{port}")
        with urlopen(Request(url, content, method="POST")) as response:
            top = json.loads(response.read())["predictions"][0]
        (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        code = code.replace(":8000", f":{port}")
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"[b'{top['class']}' ")
        paths = re.findall(r"`(?:GET )?(/v2[a-z/]*|/metrics|/)`", page)
        assert len(paths) >= 5
        for path in paths:
            assert ask(port, path=path) == 200
    for name, value in (("queue", Limits.queue), ("timeout", Limits.timeout_seconds)):
        assert re.search(rf"\| `--{name}` \| {value:g} ", page)
    assert f"| {Limits.upload_bytes // 2**20} MiB in a body" in page
    assert f"| {MAX_IMAGES} images in a request" in page
    assert f"| {CONNECTIONS:,} connections; " in page
    assert f"{SPARE_DESCRIPTORS} fewer than" in page
    assert f"| {UPLOAD_SECONDS:g} s for a body" in page
    assert f"| {HEAD_SECONDS:g} s for the head of a request, {KEEP_ALIVE_SECONDS} s of silence" in page
