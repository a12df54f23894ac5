"""The end of a server as its clients see it: no request without an answer, and none that is answered twice."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest
from running import MeanBackend, Running, serving
from test_limits import png, raw, read_all, wait_for

from inceptionv4.serving import connection

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
CLIENTS = 50


def read_answer(connected: socket.socket) -> bytes:
    """One answer in JSON, of which more may follow over the same connection."""
    answer = b""
    while not answer.endswith(b"}"):
        piece = connected.recv(4096)
        assert piece, answer
        answer += piece
    return answer


def drain(running: Running) -> None:
    running.server.should_exit = True
    wait_for(lambda: running.server.connections.draining)


def test_fifty_clients_that_keep_their_connections(backend: MeanBackend) -> None:
    """Each asks again and again until an answer says that it is the last one; half of them pause in between."""
    asked = threading.Barrier(CLIENTS + 1)

    def ask(number: int) -> int:
        client = HTTPConnection("127.0.0.1", running.port, timeout=30)
        count, is_last = 0, False
        while not is_last:
            if number % 3:
                client.request("GET", "/v2/health/ready")
            else:
                client.request("POST", "/predict", png())
            response = client.getresponse()
            response.read()
            count, is_last = count + 1, response.getheader("Connection") == "close"
            assert response.status == 200 or (response.status == 503 and is_last)
            if count == 1:
                asked.wait(30)
            if number % 2 and not is_last:
                time.sleep(0.05)
        client.close()
        return count

    with serving(backend) as running, ThreadPoolExecutor(CLIENTS) as pool:
        counts = [pool.submit(ask, number) for number in range(CLIENTS)]
        asked.wait(30)
        drain(running)
        assert all(count.result(30) > 1 for count in counts)


def test_a_request_that_comes_a_moment_later_is_answered(backend: MeanBackend) -> None:
    with serving(backend) as running:
        kept, silent, half = raw(running.port, GET), raw(running.port), raw(running.port, GET[:30])
        assert b"connection: close" not in read_answer(kept)
        drain(running)
        time.sleep(0.2)
        for client, rest in ((kept, GET), (silent, GET), (half, GET[30:])):
            client.sendall(rest)
            answer = read_all(client)  # to the end of the connection
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer


def test_what_is_under_way_is_the_last_answer(backend: MeanBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PARTING_SECONDS", 0.1)
    with serving(backend) as running, ThreadPoolExecutor(1) as pool:
        backend.free.clear()
        answer = pool.submit(running.ask, "POST", "/predict", png())
        wait_for(lambda: running.app.service.batcher.admitted == 1)
        drain(running)
        time.sleep(0.5)
        backend.free.set()
        reply = answer.result(10)
        assert (reply.status, reply.headers["connection"]) == (200, "close")


def test_who_says_nothing_is_closed_and_not_reset(backend: MeanBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end comes as an end of file, also to who sends a request into it; and who does not care is left."""
    monkeypatch.setattr(connection, "PARTING_SECONDS", 0.5)
    with serving(backend) as running:
        silent, kept, late, deaf = (
            raw(running.port),
            raw(running.port, GET),
            raw(running.port, GET),
            raw(running.port, GET),
        )
        for client in (kept, late, deaf):
            read_answer(client)
        start = time.monotonic()
        drain(running)
        for client in (silent, kept, late):
            assert client.recv(1) == b""
        assert 0.5 < time.monotonic() - start < 1.5
        late.sendall(GET)
        assert late.recv(1) == b""
        for client in (silent, kept, late):
            client.close()
    assert time.monotonic() - start < 3
    deaf.close()
