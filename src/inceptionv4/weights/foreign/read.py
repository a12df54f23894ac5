"""From a file of another project to a checkpoint like ours: weights, classes, preprocessing, and a strict report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from inceptionv4.errors import CheckpointError
from inceptionv4.imagenet import class_names
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.foreign.assemble import CLASSES, Report, assemble, recognize
from inceptionv4.weights.foreign.containers import is_onnx, read_arrays
from inceptionv4.weights.foreign.onnx import read_onnx
from inceptionv4.weights.foreign.origins import INCEPTION, ORIGINS
from inceptionv4.weights.huggingface import CONFIG, read_config


def read_foreign(path: Path) -> tuple[Checkpoint, Report]:
    """An Inception-v4 that another project wrote, in whatever of the known forms it is; a file is known by its content.

    1000 classes are taken for ImageNet's, any other number is numbered; a Hugging Face folder's config.json says better.

    Raises:
        CheckpointError: damaged, of no known form, another network, or one with arrays that nothing explains.
        UsageError: a package that reads this kind of file is not installed.
    """
    as_onnx = is_onnx(path)
    if as_onnx:
        weights, architecture, report, _ = read_onnx(path)
        preprocessing = INCEPTION
    else:
        found = read_arrays(path)
        try:
            origin = recognize(found.arrays)
            weights, report = assemble(found.arrays, origin)
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
    config = path.parent / CONFIG
    if config.is_file() and not as_onnx:
        spec = replace(spec, **read_config(config, spec))
    return Checkpoint(weights, spec), report


KNOWN = ", ".join(origin.name for origin in ORIGINS)
