"""A server with a thread that never comes back: `python stuck_server.py decoding` or `... warming`, then options.

Decoding sleeps as a decoder would that was given years of work; warming up is at work within torch.
"""

from __future__ import annotations

import sys
import time

import torch
from running import MeanBackend
from torch import Tensor

from inceptionv4.cli import main
from inceptionv4.inference import runtimes
from inceptionv4.serving import batching


def sleep(*arguments: object, **options: object) -> None:
    time.sleep(3600)


def compute(images: Tensor) -> None:
    matrix = torch.ones(700, 700)
    while True:
        matrix = (matrix @ matrix).clamp(-1, 1)


def load(model: str, **options: object) -> MeanBackend:
    backend = MeanBackend()
    if where == "warming":
        backend.before = compute
    return backend


if __name__ == "__main__":
    where, *options = sys.argv[1:]
    runtimes.open_backend = load  # type: ignore[assignment]
    if where == "decoding":
        batching.decode = sleep  # type: ignore[assignment]
    main(["serve", "stuck", "--port", "0", *options])
