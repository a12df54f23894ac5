"""From a file of another project to a checkpoint like ours: weights, classes, preprocessing, and a strict report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from inceptionv4.artefact import NOTE as EXPORTED
from inceptionv4.artefact import Artefact
from inceptionv4.errors import CheckpointError
from inceptionv4.imagenet import class_names
from inceptionv4.printable import note
from inceptionv4.runtime.exported import verify_content
from inceptionv4.spec import NOTE, ModelSpec
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.foreign.assemble import CLASSES, Report, assemble, recognize
from inceptionv4.weights.foreign.containers import is_onnx, read_arrays
from inceptionv4.weights.foreign.onnx import read_onnx
from inceptionv4.weights.foreign.origins import INCEPTION, PADDLE
from inceptionv4.weights.notes import read_notes, read_spec, read_training
from inceptionv4.weights.timm_config import CONFIG, apply_config, count_classes, load_config


def read_foreign(path: Path) -> tuple[Checkpoint, Report]:
    """An Inception-v4 that another project wrote, in whatever of the known forms it is; a file is known by its content.

    1000 classes are taken for ImageNet's, any other number is numbered. Notes of ours in the file or beside it say
    better, and the config.json of a Hugging Face folder best.

    Raises:
        CheckpointError: damaged, of no known form, another network, or one with arrays that nothing explains.
        UsageError: a package that reads this kind of file is not installed.
    """
    as_onnx = is_onnx(path)
    config = None if as_onnx else _read_config(path.with_name(CONFIG))
    if as_onnx:
        weights, architecture, report, notes = read_onnx(path)
        preprocessing = PADDLE.preprocessing if architecture == PADDLE.architecture else INCEPTION
        noted = read_spec(path, notes)
        if EXPORTED in notes:
            verify_content(path, Artefact.from_json(notes[EXPORTED], str(path)))
    else:
        found = read_arrays(path)
        notes = {**found.notes, **read_notes(path)}
        noted = read_spec(path, notes)
        declared = len(noted.classes) if noted else count_classes(config or {})
        try:
            origin = recognize(found.arrays, declared)
            weights, report = assemble(found.arrays, origin, classes=declared)
        except CheckpointError as error:
            raise CheckpointError(f"{path} ({found.container}): {error}") from None
        architecture, preprocessing = origin.architecture, origin.preprocessing
    classes = len(weights["classifier.bias"])
    spec = ModelSpec(
        classes=class_names() if classes == CLASSES else tuple(map(str, range(classes))),
        architecture=architecture,
        preprocessing=preprocessing,
        origin=f"{report.origin}: {path.name}",
    )
    if noted is not None:
        if len(noted.classes) != classes or noted.architecture != architecture:
            raise CheckpointError(f"{path}: its note {NOTE} is of another model: {len(noted.classes)} classes")
        spec = noted
    if noted is None and config is None:
        whose = "PaddleClas" if preprocessing is PADDLE.preprocessing else "timm" if as_onnx else report.origin
        report.assumed = f"the preprocessing of {whose}'s published weights; --image.size and so on say another"
    if config is not None:
        spec = replace(spec, **apply_config(path.with_name(CONFIG), config, spec))
    return Checkpoint(weights, spec, read_training(path, notes)), report


def _read_config(path: Path) -> dict[str, Any] | None:
    """Timm's config beside weights; None if there is none. Of a file that is another program's a line is said."""
    if not path.is_file():
        return None
    config = load_config(path)
    if config is None:
        note(f"{path} is not timm's and says nothing of these weights: not used")
    return config
