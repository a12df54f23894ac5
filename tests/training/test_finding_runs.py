"""Two machines that share nothing train as one: which run they go on with."""

from __future__ import annotations

import pytest

from inceptionv4.errors import RunError
from inceptionv4.runtime.distributed import Ranks
from inceptionv4.training.run.folder import agree


def test_a_run_that_another_machine_has_is_not_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen_by(*found: str | None) -> str | None:
        monkeypatch.setattr(Ranks, "gather", lambda self, value: list(found))
        return agree(found[-1], Ranks(1, len(found)))  # type: ignore[return-value]

    assert seen_by(None, None) is None
    assert seen_by("runs/a/2", None) == "runs/a/2"
    assert seen_by("runs/a/2", "runs/a/1") == "runs/a/2"
    with pytest.raises(RunError, match="process 1 of 2 found runs/a/1 to go on with, which the first .* does not see"):
        seen_by(None, "runs/a/1")
