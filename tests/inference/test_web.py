"""Images by address, from a server on this machine that does all that a server should not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from inceptionv4.errors import ImageError
from inceptionv4.inference import web
from inceptionv4.inference.web import fetch, is_address, is_fetched


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

    def answer_to(self, rest: str) -> None:
        self.start(302, Location=rest)
        if "endless" in rest:
            while True:  # the body of a redirection is nobody's business
                self.wfile.write(bytes(1000))

    def answer_slowly(self, rest: str) -> None:
        time.sleep(0.3)
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
        ("silent", "nothing came for 0.5 s"),
        ("mute", "nothing came for 0.5 s"),
        ("trickle", "it did not end within 1 s"),
        ("slowly/", "it did not end within 1 s"),
        ("round/", "it leads on, more than 10 times"),
        ("to/file:///etc/passwd", "file:///etc/passwd, where http://"),
        ("to/ftp://127.0.0.1/endless", "is not fetched: images come from http and https alone"),
        ("to/data:image/png;base64,AAAA", "is not fetched"),
        ("garbage", "cannot be fetched"),
    ],
)
def test_what_goes_wrong_is_said_in_time(server: str, path: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_BYTES", 100_000)
    monkeypatch.setattr(web, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(web, "MAX_SECONDS", 1.0)
    start = time.monotonic()
    with pytest.raises(ImageError) as raised:
        fetch(f"{server}/{path}")
    assert time.monotonic() - start < 1.9
    assert message in str(raised.value)
    assert f"{server}/{path}" in str(raised.value)


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ImageError, match="cannot be fetched: Connection refused"):
            fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/a.jpg")


@pytest.mark.parametrize("address", ["http://", "http://[bad/a.jpg", "http://127.0.0.1:x/a.jpg", "http:///a.jpg"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ImageError, match="cannot be fetched"):
        fetch(address)


def test_what_an_address_is() -> None:
    assert all(map(is_address, ("http://a/b", "HTTPS://a", "ftp://a", "file:///a")))
    assert not any(map(is_address, ("a.jpg", "C:\\a.jpg", "c:/a.jpg", "/http://a", "hf-hub:timm/a")))
    assert [is_fetched(place) for place in ("http://a", "HTTPS://a", "ftp://a", "file:///a", "httpx://a")] == [
        *(True, True, False, False, False)
    ]
