"""A server whose model takes half a second for an image, for tests that stop it: `python slow_server.py`."""

from __future__ import annotations

import sys
import time

from running import MeanBackend

from inceptionv4.cli import main
from inceptionv4.inference import runtimes


def load(model: str, **options: object) -> MeanBackend:
    backend = MeanBackend(batch_size=1)
    backend.before = lambda images: time.sleep(0.5)
    return backend


if __name__ == "__main__":
    runtimes.open_backend = load  # type: ignore[assignment]
    main(["serve", "slow", "--port", "0", *sys.argv[1:]])
