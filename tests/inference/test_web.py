"""Images by address, from a server on this machine that does all that a server should not."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from inceptionv4.errors import ImageError
from inceptionv4.inference import web
from inceptionv4.inference.web import fetch, is_address, is_fetched
from inceptionv4.runtime.credentials import has_credentials, hide_credentials


class Handler(BaseHTTPRequestHandler):
    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Handler.seen.append(self.path)
        kind, _, rest = self.path.removeprefix("/").partition("/")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # they had enough
            getattr(self, f"answer_{kind}", self.answer_missing)(rest)

    def answer_image(self, rest: str) -> None:
        self.start(Content_Length=5)
        self.wfile.write(b"image")

    def answer_unsized(self, rest: str) -> None:
        self.start()
        self.wfile.write(b"image")

    def answer_endless(self, rest: str) -> None:
        self.start()
        while True:
            self.wfile.write(bytes(1000))

    def answer_large(self, rest: str) -> None:
        self.start(Content_Length=10**9)

    def answer_short(self, rest: str) -> None:
        self.start(Content_Length=10)
        self.wfile.write(b"image")

    def answer_silent(self, rest: str) -> None:
        self.start(Content_Length=10)
        self.wfile.write(b"image")
        self.wfile.flush()
        time.sleep(2)

    def answer_mute(self, rest: str) -> None:
        time.sleep(2)

    def answer_trickle(self, rest: str) -> None:
        self.start(Content_Length=1000)
        for _ in range(1000):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.02)

    def drip(self, content: bytes) -> None:
        for byte in content * 100:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.02)

    def answer_status(self, rest: str) -> None:
        self.drip(b"HTTP/1.1 200 it goes well")

    def answer_header(self, rest: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.drip(b"a: b\r\n")

    def answer_continue(self, rest: str) -> None:
        for _ in range(1000):
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.01)

    def answer_chunks(self, rest: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.drip(b"1\r\nx\r\n")

    def answer_trailer(self, rest: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nimage\r\n0\r\n")
        self.drip(b"a: b\r\n")

    def answer_to(self, rest: str) -> None:
        self.start(302, Location=rest)
        if "endless" in rest:
            while True:  # the body of a redirection is nobody's business
                self.wfile.write(bytes(1000))

    def answer_slowly(self, rest: str) -> None:
        time.sleep(0.15)
        self.start(302, Location="/slowly/")

    def answer_round(self, rest: str) -> None:
        self.start(301, Location="/round/")

    def answer_missing(self, rest: str) -> None:
        self.send_error(404)

    def answer_garbage(self, rest: str) -> None:
        self.wfile.write(b"\x00\x01\x02\r\n\r\n")

    def start(self, code: int = 200, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    web._opener.cache_clear()
    Handler.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()
    web._opener.cache_clear()


def test_what_is_there_comes(server: str) -> None:
    for path in (
        "image/a.jpg",
        "unsized",
        "to//image/b.jpg",
        f"to/{server}/image/",
        "to/HTTP://" + server[7:] + "/image/",
    ):
        assert fetch(f"{server}/{path}") == b"image"
    assert fetch(f"{server}/image/ä b%20c.jpg?q=1&r=ü") == b"image"
    assert Handler.seen[-1] == "/image/%C3%A4%20b%20c.jpg?q=1&r=%C3%BC"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "cannot be fetched: the server answers 404 Not Found"),
        ("endless", "has more than 100,000 bytes, the limit"),
        ("large", "has 1,000,000,000 bytes; the limit is 100,000"),
        ("short", "it ended after 5 of 10 bytes"),
        ("silent", "nothing came for 0.3 s"),
        ("mute", "nothing came for 0.3 s"),
        ("trickle", "it did not end within 0.6 s"),
        ("slowly/", "it did not end within 0.6 s"),
        *((kind, "it did not end within 0.6 s") for kind in ("status", "header", "continue", "chunks", "trailer")),
        ("to//header", "it did not end within 0.6 s"),
        ("round/", "it leads on, more than 10 times"),
        ("to/file:///etc/passwd", "file:///etc/passwd, where http://"),
        ("to/ftp://127.0.0.1/endless", "is not fetched: images come from http and https alone"),
        ("to/data:image/png;base64,AAAA", "is not fetched"),
        ("garbage", "cannot be fetched"),
    ],
)
def test_what_goes_wrong_is_said_in_time(server: str, path: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_BYTES", 100_000)
    monkeypatch.setattr(web, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(web, "MAX_SECONDS", 0.6)
    start = time.monotonic()
    with pytest.raises(ImageError) as raised:
        fetch(f"{server}/{path}")
    assert time.monotonic() - start < 1.5
    assert message in str(raised.value)
    assert f"{server}/{path}" in str(raised.value)


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ImageError, match="cannot be fetched: Connection refused"):
            fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/a.jpg")


def test_a_tunnel_that_drips(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is asked for a connection to another host, and drips the headers of its answer."""
    monkeypatch.setattr(web, "MAX_SECONDS", 0.6)
    monkeypatch.setattr(Handler, "do_CONNECT", lambda self: self.answer_header(""), raising=False)
    monkeypatch.setenv("https_proxy", server)
    web._opener.cache_clear()
    start = time.monotonic()
    with pytest.raises(ImageError, match=r"https://127.0.0.2/a.jpg cannot be fetched: it did not end within 0\.6 s"):
        fetch("https://127.0.0.2/a.jpg")
    assert time.monotonic() - start < 1.5


def test_a_handshake_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(ImageError, match=r"cannot be fetched: no answer within 0\.3 s"):
            fetch(f"https://127.0.0.1:{silent.getsockname()[1]}/a.jpg")
        assert time.monotonic() - start < 1.2


def test_a_name_that_nobody_looks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE_SECONDS", 0.3)
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(10))
    start = time.monotonic()
    with pytest.raises(ImageError, match=r"http://a\.test/a\.jpg cannot be fetched: no answer within 0\.3 s"):
        fetch("http://a.test/a.jpg")
    assert time.monotonic() - start < 1.2
    ended.set()


def test_a_name_with_many_addresses_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be waited for by itself: what connects first is a socket whose queue is full."""
    monkeypatch.setattr(web, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(web, "MAX_SECONDS", 0.7)
    with contextlib.ExitStack() as opened:
        full = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            client = opened.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        one = (socket.AF_INET, socket.SOCK_STREAM, 0, "", full.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [one] * 50)
        start = time.monotonic()
        with pytest.raises(ImageError, match=r"http://a\.test/a\.jpg cannot be fetched: it did not end within 0\.7 s"):
            fetch("http://a.test/a.jpg")
        assert time.monotonic() - start < 1.5


def test_a_name_whose_second_address_answers(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(server.rpartition(":")[2])
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        places = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", at)) for at in (unused.getsockname()[1], port)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
        assert fetch("http://a.test/image/a.jpg") == b"image"


@pytest.mark.parametrize(
    "address",
    [
        "http://me:s3cret@127.0.0.1/a.jpg",
        "HTTPS://s3cret@host/a.jpg",
        "http://me:s3/cret@host/a.jpg",
        "http://me:s3cret",
    ],
)
def test_a_password_is_refused_and_never_repeated(
    server: str, address: str, command: Callable[..., Any], narrow_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "@" not in address:
        address += "@" + server.removeprefix("http://") + "/image/a.jpg"
    with pytest.raises(
        ImageError, match=r"^[a-zA-Z]+://\*\*\*@.* is not fetched: there is a name or a password in it"
    ) as one:
        fetch(address)
    with pytest.raises(ImageError, match=r"to/.* leads, is not fetched: there is a name or a password in it") as two:
        fetch(f"{server}/to/{address}")
    result = command("predict", narrow_model, address, "--json")
    assert (result.code, result.out) == (2, "")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{address}\n{server}/image/a.jpg\n"))
    listed = command("predict", narrow_model, "-", "--json")
    assert listed.code == 3
    assert "://***@" in listed.out
    for words in (str(one.value), str(two.value).partition(", where ")[0], result.err, listed.out, listed.err):
        assert "s3" not in words
        assert "cret" not in words
    assert "/image/a.jpg" not in Handler.seen[:-1]


@pytest.mark.parametrize("address", ["http://", "http://[bad/a.jpg", "http://127.0.0.1:x/a.jpg", "http:///a.jpg"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ImageError, match="cannot be fetched"):
        fetch(address)


def test_what_an_address_is() -> None:
    assert all(map(is_address, ("http://a/b", "HTTPS://a", "ftp://a", "file:///a")))
    assert not any(map(is_address, ("a.jpg", "C:\\a.jpg", "c:/a.jpg", "/http://a", "hf-hub:timm/a")))
    plain = (
        "http://[::1]:80/a@b",
        "http://a:80/@",
        "https://a/b:c@d",
        "http://a?b=c:d@e",
        "http://a:80",
        "s3://b/k:x@y",
    )
    assert not any(map(has_credentials, plain))
    assert [hide_credentials(place) for place in plain] == list(plain)
    assert [is_fetched(place) for place in ("http://a", "HTTPS://a", "ftp://a", "file:///a", "httpx://a")] == [
        *(True, True, False, False, False)
    ]
