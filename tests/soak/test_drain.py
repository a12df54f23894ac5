"""Fifty clients that keep their connections, and SIGTERM in the middle, again and again: none is reset."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest
from test_limits import png
from test_process import SLOW, started

CLIENTS, ROUNDS = 50, 5


def ask(port: int, number: int) -> int:
    """Requests that were answered, up to the answer that says that it is the last."""
    client = HTTPConnection("127.0.0.1", port, timeout=60)
    count, is_last = 0, False
    while not is_last:
        if number == 0:
            client.request("POST", "/predict", png())
        else:
            client.request("GET", "/v2/health/ready")
        response = client.getresponse()
        response.read()
        count, is_last = count + 1, response.getheader("Connection") == "close"
        if number % 2:
            time.sleep(0.01 * (number % 7))
    return count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_no_client_is_reset(number: signal.Signals) -> None:
    for round_number in range(ROUNDS):
        with started(*SLOW) as (process, port, _), ThreadPoolExecutor(CLIENTS) as pool:
            answered = [pool.submit(ask, port, client) for client in range(CLIENTS)]
            time.sleep(1 + 0.037 * round_number)
            process.send_signal(number)
            assert sum(count.result(60) for count in answered) > CLIENTS
            _, err = process.communicate(timeout=60)
            assert (process.returncode, err) == (0, "")
