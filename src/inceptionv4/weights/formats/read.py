"""From a file of another project to a checkpoint like ours: weights, classes, preprocessing, and a strict report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from inceptionv4.errors import CheckpointError, ConfigError
from inceptionv4.export_metadata import NOTE as EXPORTED
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.imagenet import class_names
from inceptionv4.printable import note
from inceptionv4.runtime.exported import verify_content
from inceptionv4.spec import NOTE, ModelSpec
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.formats.assemble import BACKGROUND, CLASSES, DROPPED, Report, assemble, recognize
from inceptionv4.weights.formats.containers import is_onnx, read_arrays
from inceptionv4.weights.formats.naming import IN_TORCH, PADDLE, TIMM, NamingScheme
from inceptionv4.weights.formats.onnx import drop_background, read_onnx
from inceptionv4.weights.notes import read_notes, read_spec, read_training
from inceptionv4.weights.timm_config import CONFIG, apply_config, count_classes, load_config


@dataclass(frozen=True)
class _Found:
    """What was read of a file and of those beside it."""

    weights: dict[str, Tensor]
    report: Report
    origin: NamingScheme
    """Whose names or network, and so whose preprocessing where nothing says another."""
    notes: Mapping[str, str]
    noted: ModelSpec | None
    config: dict[str, Any] | None
    size: int | None = None
    """Of images, px, where the file takes no other."""


def read_foreign(path: Path) -> tuple[Checkpoint, Report]:
    """An Inception-v4 that another project wrote, in whatever of the known forms it is; a file is known by its content.

    1000 classes are taken for ImageNet's, any other number is numbered. Notes of ours in the file or beside it say
    better, and best does a config.json of timm's beside weights that timm can have written.

    Raises:
        CheckpointError: damaged, of no known form, another network, or one with arrays that nothing explains.
        UsageError: a package that reads this kind of file is not installed.
    """
    found = _read_graph(path) if is_onnx(path) else _read_arrays(path)
    origin, report, classes = found.origin, found.report, len(found.weights["classifier.bias"])
    spec = ModelSpec(
        classes=class_names() if classes == CLASSES else tuple(map(str, range(classes))),
        architecture=origin.architecture,
        preprocessing=origin.preprocessing,
        origin=f"{report.origin}: {path.name}",
    )
    if found.noted is not None:
        if len(found.noted.classes) != classes or found.noted.architecture != origin.architecture:
            raise CheckpointError(f"{path}: its note {NOTE} is of another model: {len(found.noted.classes)} classes")
        spec = found.noted
    if found.config is not None:
        dropped = int(DROPPED in report.folded)
        spec = replace(spec, **apply_config(path.with_name(CONFIG), found.config, spec, dropped=dropped))
    elif found.noted is None:
        what = "graph" if is_onnx(path) else "file"
        report.assumed = f"the preprocessing of {origin.name}'s published weights, as the {what} does not say its own"
    if found.size is not None and found.noted is None:
        spec = _with_size(path, spec, found.size, configured=found.config is not None)
    return Checkpoint(found.weights, spec, read_training(path, found.notes)), report


def _read_graph(path: Path) -> _Found:
    model = read_onnx(path)
    noted = read_spec(path, model.notes)
    if EXPORTED in model.notes:
        verify_content(path, ExportMetadata.from_json(model.notes[EXPORTED], str(path)))
    origin = PADDLE if model.architecture == PADDLE.architecture else TIMM
    config = None if noted else _read_config(path.with_name(CONFIG), origin)
    if noted is None and count_classes(config or {}) != BACKGROUND:
        drop_background(model.weights, model.report)
    return _Found(model.weights, model.report, origin, model.notes, noted, config, model.size)


def _read_arrays(path: Path) -> _Found:
    found = read_arrays(path)
    notes = {**found.notes, **read_notes(path)}
    noted = read_spec(path, notes)
    try:
        origin = recognize(found.arrays)
    except CheckpointError as error:
        raise CheckpointError(f"{path} ({found.container}): {error}") from None
    config = _read_config(path.with_name(CONFIG), origin)
    declared = len(noted.classes) if noted else count_classes(config or {})
    try:
        origin = recognize(found.arrays, declared)
        weights, report = assemble(found.arrays, origin, classes=declared)
    except CheckpointError as error:
        raise CheckpointError(f"{path} ({found.container}): {error}") from None
    return _Found(weights, report, origin, notes, noted, config)


def _read_config(path: Path, origin: NamingScheme) -> dict[str, Any] | None:
    """The config of timm's beside weights of `origin`; None if there is none. A line says why a file is not used."""
    if not path.is_file():
        return None
    if origin not in IN_TORCH:
        note(f"{path} is not used: no config.json describes weights of {origin.name}")
        return None
    config = load_config(path)
    if config is None:
        note(f"{path} is not timm's and says nothing of these weights: not used")
    return config


def _with_size(path: Path, spec: ModelSpec, size: int, *, configured: bool) -> ModelSpec:
    """`spec` with the size of images, px, that the file takes. `configured`: a config.json says that of `spec`.

    Raises:
        CheckpointError: there is no such size, or the config.json says another.
    """
    if configured and spec.preprocessing.size != size:
        raise CheckpointError(
            f"{path} takes images of {size} px, {path.with_name(CONFIG)} says {spec.preprocessing.size}; "
            "remove the config.json if it is not of this file"
        )
    try:
        return replace(spec, preprocessing=replace(spec.preprocessing, size=size))
    except ConfigError as error:
        raise CheckpointError(f"{path} takes images of a size that is not supported: {error}") from None
