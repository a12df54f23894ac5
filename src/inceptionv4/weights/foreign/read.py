"""From a file of another project to a checkpoint like ours: weights, classes, preprocessing, and a strict report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from inceptionv4.errors import CheckpointError
from inceptionv4.imagenet import class_names
from inceptionv4.spec import NOTE, ModelSpec
from inceptionv4.strict_json import from_json
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.foreign.assemble import CLASSES, Report, assemble, recognize
from inceptionv4.weights.foreign.containers import is_onnx, read_arrays
from inceptionv4.weights.foreign.onnx import read_onnx
from inceptionv4.weights.foreign.origins import INCEPTION
from inceptionv4.weights.huggingface import CONFIG, read_config


def read_foreign(path: Path) -> tuple[Checkpoint, Report]:
    """An Inception-v4 that another project wrote, in whatever of the known forms it is; a file is known by its content.

    1000 classes are taken for ImageNet's, any other number is numbered. A note of ours in the file says better, and the
    config.json of a Hugging Face folder best.

    Raises:
        CheckpointError: damaged, of no known form, another network, or one with arrays that nothing explains.
        UsageError: a package that reads this kind of file is not installed.
    """
    as_onnx = is_onnx(path)
    if as_onnx:
        weights, architecture, report, notes = read_onnx(path)
        preprocessing = INCEPTION
    else:
        found = read_arrays(path)
        try:
            origin = recognize(found.arrays)
            weights, report = assemble(found.arrays, origin)
        except CheckpointError as error:
            raise CheckpointError(f"{path} ({found.container}): {error}") from None
        architecture, preprocessing, notes = origin.architecture, origin.preprocessing, dict(found.notes)
    classes = len(weights["classifier.bias"])
    spec = ModelSpec(
        classes=class_names() if classes == CLASSES else tuple(map(str, range(classes))),
        architecture=architecture,
        preprocessing=preprocessing,
        origin=f"{report.origin}: {path.name}",
    )
    if NOTE in notes:
        spec = _read_note(path, notes[NOTE], spec)
    if (config := path.parent / CONFIG).is_file() and not as_onnx:
        spec = replace(spec, **read_config(config, spec))
    return Checkpoint(weights, spec), report


def _read_note(path: Path, note: str, found: ModelSpec) -> ModelSpec:
    try:
        spec = ModelSpec.from_dict(from_json(note))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its note {NOTE} cannot be read: {error}") from None
    if len(spec.classes) != len(found.classes) or spec.architecture != found.architecture:
        raise CheckpointError(f"{path}: its note {NOTE} is of another model: {len(spec.classes)} classes")
    return spec
