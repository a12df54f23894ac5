"""What a server does not put up with: too much, too slow, too often, damaged; and that it lives on."""

from __future__ import annotations

import gzip
import io
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection

import pytest
from PIL import Image
from running import MeanBackend, Running, serving
from test_zoo import bombs
from torch import Tensor

from inceptionv4.data.decode import decode
from inceptionv4.errors import ImageError
from inceptionv4.serving import connection, server, uploads

MB = 2**20


def png(size: tuple[int, int] = (75, 75), color: int = 0) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (color, color, color)).save(content, "PNG")
    return content.getvalue()


def raw(port: int, content: bytes = b"") -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", port), timeout=30)
    connected.sendall(content)
    return connected


def read_all(connected: socket.socket) -> bytes:
    with connected:
        parts = []
        while part := connected.recv(65536):
            parts.append(part)
        return b"".join(parts)


def wait_for(condition: object, seconds: float = 10) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_endless_body_without_a_length_is_refused_at_the_limit(narrow_server: Running) -> None:
    sent = held = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent, held
        for _ in range(1024):
            sent, held = sent + MB, max(held, narrow_server.app.uploads._held)
            yield bytes(MB)

    client = HTTPConnection("127.0.0.1", narrow_server.port, timeout=10)
    start = time.monotonic()
    with suppress(BrokenPipeError, ConnectionResetError):  # it hung up; what it said before is still to be read
        client.request("POST", "/predict", endless(), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    response = client.getresponse()
    assert response.status == 413
    assert b"larger than 33,554,432 bytes" in response.read()
    seconds = time.monotonic() - start
    print(f"413 in {seconds:.2f} s, after up to {sent:,} bytes, of which {held:,} were held")
    assert seconds < 5
    # The client looks between two chunks of its own, and so may miss the last ones that the server counts.
    assert 16 * MB < held <= 32 * MB < sent
    client.close()
    wait_for(lambda: narrow_server.app.uploads._held == 0)


def test_a_body_that_says_that_it_is_too_large_is_not_read(narrow_server: Running) -> None:
    start = time.monotonic()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\nExpect: 100-continue\r\n\r\n"
    answer = read_all(raw(narrow_server.port, head))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer
    assert time.monotonic() - start < 3


def test_bodies_where_none_belong_do_not_keep_a_connection(narrow_server: Running) -> None:
    for line in (b"GET /v2", b"POST /nowhere", b"DELETE /predict"):
        head = line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        answer = read_all(raw(narrow_server.port, head + bytes(1000)))
        assert b"connection: close" in answer


def test_a_request_that_is_answered_keeps_its_connection(narrow_server: Running) -> None:
    client = HTTPConnection("127.0.0.1", narrow_server.port, timeout=10)
    client.connect()
    ours = client.sock.getsockname()
    for _ in range(3):
        client.request("POST", "/predict", png())
        assert client.getresponse().read()
        client.request("POST", "/predict", b"no image")
        assert client.getresponse().read()
    assert client.sock.getsockname() == ours
    client.close()


def test_a_hundred_slow_clients_do_not_stop_the_others(narrow_server: Running) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    slow = [raw(narrow_server.port, head) for _ in range(50)]
    slow += [raw(narrow_server.port, head[: 5 + number]) for number in range(50)]
    try:
        for _ in range(5):
            for client in slow[:50]:
                client.sendall(b"x")
            start = time.monotonic()
            assert narrow_server.ask("GET", "/v2/health/ready").status == 200
            seconds = time.monotonic() - start
            print(f"health in {1000 * seconds:.1f} ms")
            assert seconds < 1
            assert narrow_server.ask("POST", "/predict", png()).status == 200
    finally:
        for client in slow:
            client.close()


def test_a_connection_too_many_takes_the_place_of_one_that_waits(
    backend: MeanBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "allow_connections", lambda: 3)
    with serving(backend) as running, ThreadPoolExecutor(3) as pool:
        admitted = running.app.service.batcher
        backend.free.clear()
        with raw(running.port, b"GET /v2 HTT") as first, raw(running.port) as second:
            answers = [pool.submit(running.ask, "POST", "/predict", png())]
            wait_for(lambda: admitted.admitted == 1)
            assert running.ask("GET", "/v2/health/live").status == 200
            assert first.recv(1) == b""  # it was the older one
            second.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            said = b""
            while not said.endswith(b"}"):
                said += second.recv(1000)
            answers += [pool.submit(running.ask, "POST", "/predict", png()) for _ in range(2)]
            wait_for(lambda: admitted.admitted == 3)
            assert second.recv(1) == b""
        with pytest.raises(OSError):  # noqa: PT011 - closed before or after it has asked
            running.ask("GET", "/v2/health/live")
        backend.free.set()
        assert [answer.result().status for answer in answers] == [200] * 3
        assert running.ask("GET", "/v2/health/live").status == 200


def test_a_body_that_does_not_come_is_given_up(backend: MeanBackend) -> None:
    with serving(backend) as running:
        running.app.uploads.seconds = 0.2
        client = raw(running.port, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx")
        assert read_all(client).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_does_not_come_is_given_up(backend: MeanBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.5)
    with serving(backend) as running:
        start = time.monotonic()
        assert read_all(raw(running.port)) == b""
        trickling = raw(running.port, b"GET /v2 HTTP/1.1\r\n")

        def trickle() -> None:
            for _ in range(1000):
                trickling.sendall(b"a: b\r\n")
                time.sleep(0.01)

        with trickling, pytest.raises((BrokenPipeError, ConnectionResetError)):
            trickle()
        again = raw(running.port, b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\nGET /v2 HTT")
        assert read_all(again).count(b"HTTP/1.1 200") == 1
        assert time.monotonic() - start < 10
        # A request whose head has come has all the time of its body and its answer.
        backend.free.clear()
        client = HTTPConnection("127.0.0.1", running.port, timeout=10)
        client.request("POST", "/predict", png())
        time.sleep(0.6)
        backend.free.set()
        assert client.getresponse().status == 200
        client.close()


def test_more_bytes_than_may_be_held_are_refused(backend: MeanBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BODIES_HELD", 2)
    with serving(backend, upload_bytes=MB) as running:
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        waiting = [raw(running.port, head + bytes(999_999)) for _ in range(2)]
        wait_for(lambda: running.app.uploads._held == 2 * 999_999)
        reply = running.ask("POST", "/predict", bytes(500_000))
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        for client in waiting:
            client.close()
        wait_for(lambda: running.app.uploads._held == 0)
        assert running.ask("POST", "/predict", png()).status == 200


def test_a_full_queue_sends_away_and_is_empty_again(backend: MeanBackend) -> None:
    with serving(backend, queue=5) as running, ThreadPoolExecutor(5) as pool:
        backend.free.clear()
        waiting = [pool.submit(running.ask, "POST", "/predict", png()) for _ in range(5)]
        wait_for(lambda: running.app.service.batcher.admitted == 5)
        assert running.figure("inceptionv4_queue_images") == 5
        start = time.monotonic()
        reply = running.ask("POST", "/predict", png())
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert reply.json == {"error": "5 images wait already, of at most 5; try again soon"}
        assert running.infer({}).status == 503
        assert running.ask("GET", "/v2/health/live").status == 200
        assert time.monotonic() - start < 1
        backend.free.set()
        assert [answer.result().status for answer in waiting] == [200] * 5
        assert running.ask("POST", "/predict", png()).status == 200


def test_a_request_waits_no_longer_than_its_time(backend: MeanBackend) -> None:
    with serving(backend, timeout_seconds=0.3) as running:
        backend.batches.clear()
        backend.free.clear()
        with ThreadPoolExecutor(6) as pool:
            replies = list(pool.map(lambda _: running.ask("POST", "/predict", png()), range(6)))
        assert {reply.status for reply in replies} == {503}
        assert "not answered within 0.3 s" in replies[0].json["error"]
        backend.free.set()
        assert running.ask("POST", "/predict", png()).status == 200
        assert sum(backend.batches) < 6  # those that had not begun were never computed


def test_who_hangs_up_is_not_answered(backend: MeanBackend) -> None:
    with serving(backend) as running:
        backend.batches.clear()
        backend.free.clear()
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(png())
        gone = [raw(running.port, head + png()) for _ in range(9)]
        wait_for(lambda: running.app.service.batcher.admitted == 9)
        for client in gone:
            client.close()
        wait_for(lambda: running.app.service.batcher.admitted == 0)
        backend.free.set()
        assert running.ask("POST", "/predict", png()).status == 200
        assert sum(backend.batches) <= 4 + 1
        assert running.figure('inceptionv4_requests_total{endpoint="predict",status="499"}') == 9


def test_a_model_that_fails_is_a_500_and_lives(backend: MeanBackend) -> None:
    def fail(images: Tensor) -> None:
        if int(images.max()) == 13:
            raise RuntimeError("a secret of /the/runtime")

    backend.before = fail
    with serving(backend) as running:
        for _ in range(3):
            reply = running.ask("POST", "/predict", png(color=13))
            assert reply.status == 500
            assert reply.json == {"error": "the model failed on this image's batch; the log says how"}
            assert running.ask("POST", "/predict", png(color=14)).status == 200
        assert running.ask("GET", "/v2/health/ready").status == 200


def test_a_fault_of_our_own_says_nothing_of_itself(backend: MeanBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(backend) as running:

        def broken() -> None:
            raise ZeroDivisionError("a secret")

        monkeypatch.setattr(running.app.metrics, "expose", broken)
        reply = running.ask("GET", "/metrics")
        assert (reply.status, reply.json) == (500, {"error": "the server failed; its log says how"})
        assert running.ask("GET", "/v2").status == 200


def test_files_that_are_no_images_are_refused_in_predictions_words(narrow_server: Running) -> None:
    whole = png((200, 200))
    for content in (b"", b"hello", whole[: len(whole) // 2], b"<html>", *bombs().values()):
        with pytest.raises(ImageError) as refused:
            decode(content, "the file")
        start = time.monotonic()
        reply = narrow_server.ask("POST", "/predict", content)
        assert time.monotonic() - start < 1
        assert (reply.status, reply.json) == (400, {"error": str(refused.value)})


def test_a_long_and_narrow_picture_is_refused(narrow_server: Running) -> None:
    """Its shorter side would be made larger, and the longer one with it: gigabytes of a file of a few bytes."""
    start = time.monotonic()
    reply = narrow_server.ask("POST", "/predict", png((1, 60_000)))
    assert reply.status == 400
    assert "1 x 60000" in reply.json["error"]
    assert time.monotonic() - start < 1


def test_one_bad_image_does_not_harm_others_at_the_same_time(narrow_server: Running) -> None:
    contents = [png(color=number) if number % 3 else b"no image" for number in range(30)]
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda content: narrow_server.ask("POST", "/predict", content), contents))
    assert [reply.status for reply in replies] == [200 if number % 3 else 400 for number in range(30)]


def test_forms_and_compressed_bodies_are_refused_with_a_word(narrow_server: Running) -> None:
    reply = narrow_server.ask("POST", "/predict", b"--x", {"Content-Type": "multipart/form-data; boundary=x"})
    assert reply.status == 415
    assert "--data-binary" in reply.json["error"]
    reply = narrow_server.ask("POST", "/predict", gzip.compress(png()), {"Content-Encoding": "gzip"})
    assert reply.status == 415
    assert "compressed" in reply.json["error"]


def test_what_is_not_http_does_no_harm(narrow_server: Running) -> None:
    for content in (b"\x16\x03\x01\x02\x00", b"GET /\r\n\r\n", b"\0" * 1000, b"GET /" + b"a" * 200_000):
        with raw(narrow_server.port) as client:
            try:
                client.sendall(content + b"\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 400") or not content.startswith(b"GET /")
            except (BrokenPipeError, ConnectionResetError):
                pass
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert narrow_server.ask("GET", "/v2", headers=upgrade).status == 200


def test_a_client_that_does_not_read_does_not_stay(backend: MeanBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.3)
    with serving(backend) as running:
        monkeypatch.setattr(running.app.metrics, "expose", lambda: bytes(50 * MB))
        client = raw(running.port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1)
        assert len(read_all(client)) < 50 * MB
