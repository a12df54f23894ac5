"""Any weights that can be read, in any form that can be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from inceptionv4.class_names import read_class_names
from inceptionv4.errors import DataError, UsageError
from inceptionv4.runtime.files import require_utf8
from inceptionv4.settings import Given, change
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.foreign.assemble import Report
from inceptionv4.weights.huggingface import WEIGHTS
from inceptionv4.weights.load import find_model, read_model
from inceptionv4.weights.write import FORMATS


def convert(
    source: str, output: Path, form: str, classes: Path | None = None, image: Mapping[str, Given] | None = None
) -> tuple[Checkpoint, Report | None]:
    """Read the weights that `source` names, give them the names in the file `classes`, if any, and the preprocessing in
    `image`, by the keys `image.size` and so on, where it says another than theirs; write them as `form`.

    Returns what was written, and what became of each array of another project's file.

    Raises:
        UsageError: no such weights, or they lie at `output`, or its name is not UTF-8; `classes` does not name them
            all; the form cannot hold the network.
        ConfigError: `image` has an unknown key, or a value that is out of range.
        CheckpointError: the weights are damaged, or no Inception-v4.
        RunError: the output cannot be written.
    """
    require_utf8(output)
    if output.exists():
        path = find_model(source)
        if output.samefile(path.parent if output.is_dir() and path.name in WEIGHTS else path):
            raise UsageError(f"{output} is the source; name another {'folder' if output.is_dir() else 'file'}")
    checkpoint, report = read_model(source)
    if classes is not None:
        checkpoint = replace(checkpoint, spec=replace(checkpoint.spec, classes=_names(classes, checkpoint)))
    if image:
        preprocessing = change(checkpoint.spec.preprocessing, image, "image.")
        checkpoint = replace(checkpoint, spec=replace(checkpoint.spec, preprocessing=preprocessing))
    FORMATS[form](checkpoint, output)
    return checkpoint, report


def _names(file: Path, checkpoint: Checkpoint) -> tuple[str, ...]:
    try:
        names = read_class_names(file.read_bytes(), str(file))
    except OSError as error:
        raise UsageError(f"cannot read the classes in {file}: {error.strerror}") from None
    except DataError as error:
        raise UsageError(str(error)) from None
    if len(names) != len(checkpoint.spec.classes):
        raise UsageError(f"{file} names {len(names)} classes, the weights have {len(checkpoint.spec.classes)}")
    return names
