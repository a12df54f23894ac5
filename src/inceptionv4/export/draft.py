"""A model in another form, and how it becomes a file: run in its own runtime, and kept only if it answers alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

from inceptionv4.artefact import Artefact, coarsest
from inceptionv4.export.parity import Questions, verify
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.runtimes import open_backend


class Draft(ABC):
    """A model in another form, ready to be a file."""

    @abstractmethod
    def save(self, artefact: Artefact, path: Path) -> Artefact:
        """Write the file and others beside it if it takes more than one; returns `artefact`, which describes them, with
        their checksum.
        """

    def open(self, path: Path) -> Backend:
        """What was saved, in its own runtime, on the CPU where it can be."""
        return open_backend(path, device="cpu")

    def save_verified(self, artefact: Artefact, path: Path, questions: Questions) -> Artefact:
        """Write the file, run it, and write what it answered into its description, which is returned. That does not
        call it verified if it had to be run in another precision.

        Raises:
            Error: it answers differently from the model. The file is there nevertheless: `path` is to be in a folder
                of `write_together`, which leaves nothing of it then.
        """
        self.save(artefact, path)
        backend = self.open(path)
        # Answers are off by what the file was rounded to, and by what it was computed in: the coarser of the two.
        allowed = coarsest((artefact.precision, backend.precision))
        verification = replace(verify(path.name, backend, questions, allowed), computed_in=backend.precision)
        return self.save(replace(artefact, verification=verification), path)
