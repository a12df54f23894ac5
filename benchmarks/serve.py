"""Images a second and latency of `inceptionv4 serve` on loopback, beside the bare model of the same runtime.

    python benchmarks/serve.py --json
    python benchmarks/serve.py --model inceptionv4.xml --json

Without a model: a network of full width with random weights, 1000 classes, 299 px, in fp32 by PyTorch. "bare" is the
backend's answer to batches of 16 that lie in memory as pixels. The server is a process of its own. Each of its clients,
threads of this process, posts photographs of 500 x 375 to /predict, one after the other on a connection that is kept.
All share the machine's cores, so that what decoding, HTTP and the clients take is taken from the model.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path

import torch
from measure import Contender, circumstances, interleave, report
from photographs import write_photographs

from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint

BATCH = 16
CLIENTS = (1, 8, 32)


@contextmanager
def serving(model: str) -> Iterator[int]:
    """A server of `model` in a process of its own: its port."""
    command = [sys.executable, "-m", "inceptionv4", "serve", model, "--port", "0", "--timeout", "600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = next((line for line in process.stdout if line.startswith("ready: ")), "")
        found = re.search(r":(\d+),", ready)
        assert found, "the server did not start"
        yield int(found[1])
    finally:
        process.terminate()
        process.wait()


class Clients:
    """So many clients at once, each of which asks again as soon as it is answered."""

    def __init__(self, count: int, port: int, contents: list[bytes], requests: int) -> None:
        self.count, self.port, self.contents, self.requests = count, port, contents, requests
        self.seconds: list[float] = []
        """Of each request, in all rounds."""

    def __call__(self) -> int:
        with ThreadPoolExecutor(self.count) as pool:
            for seconds in pool.map(self._ask, range(self.count)):
                self.seconds += seconds
        return self.requests

    def latencies(self) -> dict[str, float]:
        """Milliseconds, without those of the round that does not count."""
        counted = self.seconds[self.requests :]
        hundredths = statistics.quantiles(counted, n=100, method="inclusive")
        return {"p50_ms": hundredths[49] * 1000, "p99_ms": hundredths[98] * 1000}

    def _ask(self, client: int) -> list[float]:
        connection = HTTPConnection("127.0.0.1", self.port)
        seconds = []
        for number in range(client, self.requests, self.count):
            start = time.perf_counter()
            connection.request("POST", "/predict", self.contents[number % len(self.contents)])
            response = connection.getresponse()
            answer = response.read()
            assert response.status == 200, answer
            seconds.append(time.perf_counter() - start)
        connection.close()
        return seconds


def write_model(folder: Path, width: float) -> str:
    """The checkpoint of a network with random weights."""
    torch.manual_seed(0)
    spec = ModelSpec(classes=tuple(f"class {number}" for number in range(1000)), width=width)
    path = folder / "random.safetensors"
    save_checkpoint(Checkpoint(InceptionV4(1000, width=width).state_dict(), spec), path)
    return str(path)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--requests", type=int, default=128, help="of all clients together, a round")
    arguments.add_argument("--model", help="any that `inceptionv4 serve` takes")
    arguments.add_argument("--width", type=float, default=1.0, help="of the network with random weights")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = given.model or write_model(folder, given.width)
        write_photographs(folder / "images", 500, 375, 2 * BATCH)
        contents = [path.read_bytes() for path in sorted((folder / "images").rglob("*.jpg"))]
        backend = open_backend(model)
        backend.warm_up()
        samples = read_dataset(folder / "images").all()
        batches = evaluation_batches(samples, backend.spec.preprocessing, batch_size=BATCH, workers=0)
        images = [batch.images for batch in islice(batches, 2)]

        def bare() -> int:
            return sum(len(backend.infer(batch)) for batch in images)

        with serving(model) as port:
            clients = {count: Clients(count, port, contents, given.requests) for count in CLIENTS}
            contenders: dict[str, Contender] = {"bare": bare}
            contenders |= {f"{count} clients": asking for count, asking in clients.items()}
            speeds = interleave(contenders, given.rounds)
    results: dict[str, object] = circumstances(("inceptionv4", "torch", "starlette", "uvicorn", "pillow"))
    results |= {"runs_on": backend.describe(), "cores": os.cpu_count(), "n": given.rounds, "requests": given.requests}
    results["bare_images_per_second"] = speeds.median("bare")
    for count, asking in clients.items():
        name = f"{count} clients"
        results[name] = {
            "images_per_second": speeds.median(name),
            "ratio_bare_model": speeds.ratio(name, "bare"),
            "spread": speeds.spread(name, "bare"),
            **asking.latencies(),
        }
    report(results, given.json)


if __name__ == "__main__":
    main()
