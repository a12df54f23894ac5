"""timm's config.json, which lies beside weights on the Hugging Face hub: classes and preprocessing.

A file is read as timm reads it, or refused by the name of the key: what is not heeded here could change an answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from inceptionv4.errors import CheckpointError, ConfigError
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.strict_json import from_json, to_json

CONFIG = "config.json"
ARCHITECTURE = "inception_v4"
"""timm's name of the network."""
HARMLESS_ARGUMENTS = ("drop_rate", "drop_path_rate", "pretrained")
"""Of `model_args`: what no answer depends on."""
INTERPOLATION, CROP_PCT, CROP_MODE = "bicubic", 0.875, "center"
"""What timm takes where a config says nothing, or null."""


def load_config(path: Path) -> dict[str, Any] | None:
    """The config at `path`, with the values of its `pretrained_cfg` among the others; None if it is not timm's.

    Raises:
        CheckpointError: it is no JSON, or describes another network.
    """
    try:
        config = from_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; copy it again, or remove it") from None
    if not isinstance(config, dict):
        return None
    architecture = config.get("architecture", config.get("model_type"))
    if architecture is None:
        return None
    if architecture != ARCHITECTURE:
        raise CheckpointError(f"{path} describes {architecture!r}; this package runs {ARCHITECTURE}")
    pretrained = config.get("pretrained_cfg", {})
    if not isinstance(pretrained, dict):
        raise CheckpointError(f"{path}: pretrained_cfg must be an object, got {_show(pretrained)}")
    return {**config, **pretrained, **{key: config[key] for key in ("num_classes", "label_names") if key in config}}


def count_classes(config: Mapping[str, Any]) -> int | None:
    """The number of classes that a config gives; None if it gives none."""
    names, count = config.get("label_names"), config.get("num_classes")
    if isinstance(names, list):
        return len(names)
    return count if isinstance(count, int) else None


def read_config(path: Path, spec: ModelSpec) -> dict[str, Any]:
    """What the config.json at `path` says of classes and preprocessing, as changes to `spec`; none if it is not timm's.

    Raises:
        CheckpointError: as `load_config` and `apply_config`.
    """
    config = load_config(path)
    return {} if config is None else apply_config(path, config, spec)


def apply_config(path: Path, config: Mapping[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """What `config`, which `load_config` read from `path`, says of classes and preprocessing, as changes to `spec`.

    Raises:
        CheckpointError: it describes another network than that of `spec`, or a preprocessing that there is not.
    """
    _check_network(path, config, len(spec.classes))
    names = _class_names(path, config, len(spec.classes))
    try:
        pixels: dict[str, Any] = {
            "size": _size(path, config.get("input_size")),
            "crop": _share(path, config.get("crop_pct")),
            "crop_mode": config.get("crop_mode") or CROP_MODE,
            "interpolation": config.get("interpolation") or INTERPOLATION,
            "mean": _three(path, config, "mean", most=1.0),
            "std": _three(path, config, "std", most=math.inf),
        }
        preprocessing = replace(spec.preprocessing, **pixels)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    return {"preprocessing": preprocessing} | ({} if names is None else {"classes": names})


def _check_network(path: Path, config: Mapping[str, Any], classes: int) -> None:
    """Raise CheckpointError unless the config is that of a plain Inception-v4 with so many classes."""
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{path}: model_args must be an object, got {_show(arguments)}")
    wanted = {"global_pool": "avg", "num_classes": classes, "in_chans": 3}
    given = {key: config[key] for key in wanted if config.get(key) is not None}
    for key, value in [*given.items(), *arguments.items()]:
        if key in HARMLESS_ARGUMENTS or (key in wanted and value == wanted[key]):
            continue
        if key == "num_classes":
            raise CheckpointError(f"{path} gives num_classes {_show(value)}, the weights have {classes}")
        expected = f"; only {wanted[key]!r} is read here" if key in wanted else ""
        raise CheckpointError(f"{path} builds another network: {key} {_show(value)}{expected}")


def _class_names(path: Path, config: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """Timm's `label_names`, else the `id2label` of transformers; None where neither is given."""
    names, numbered = config.get("label_names"), config.get("id2label")
    key = "label_names"
    if names is None and numbered is not None:
        key = "id2label"
        if not isinstance(numbered, dict) or numbered.keys() != {str(number) for number in range(len(numbered))}:
            raise CheckpointError(f"{path}: id2label must name the numbers from 0 on, got {_show(numbered)}")
        names = [numbered[str(number)] for number in range(len(numbered))]
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: {key} must be a list of names, got {_show(names)}")
    if len(names) != classes:
        raise CheckpointError(f"{path} names {len(names)} classes by {key}, the weights have {classes}")
    return tuple(names)


def _size(path: Path, value: Any) -> int:
    """The side of `input_size`, which is [3, side, side]."""
    square = isinstance(value, list) and len(value) == 3 and value[0] == 3 and value[1] == value[2]
    if not square:
        raise CheckpointError(f"{path}: input_size must be [3, side, side], of a square, got {_show(value)}")
    size: int = value[1]
    return size


def _share(path: Path, value: Any) -> float:
    """`crop_pct`, or what timm takes in its place."""
    if isinstance(value, str | bool):
        raise CheckpointError(f"{path}: crop_pct must be a number, got {_show(value)}")
    return value or CROP_PCT


def _three(path: Path, config: Mapping[str, Any], key: str, *, most: float) -> tuple[float, float, float]:
    """Three numbers from 0 to `most`, of values in 0..1."""
    match config.get(key):
        case [int() | float() as red, int() | float() as green, int() | float() as blue] if all(
            0 <= part <= most for part in (red, green, blue)
        ):
            return float(red), float(green), float(blue)
        case value:
            raise CheckpointError(f"{path}: {key} must be three numbers for values in 0..1, got {_show(value)}")


def _show(value: Any) -> str:
    """A value as JSON, cut to a line."""
    text = to_json(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def make_config(spec: ModelSpec) -> str:
    """The config.json that timm reads `spec` from."""
    pixels: Preprocessing = spec.preprocessing
    return to_json(
        {
            "architecture": ARCHITECTURE,
            "num_classes": len(spec.classes),
            "num_features": 1536,
            "label_names": list(spec.classes),
            "pretrained_cfg": {
                "input_size": [3, pixels.size, pixels.size],
                "fixed_input_size": False,
                "interpolation": pixels.interpolation,
                "crop_pct": pixels.crop,
                "crop_mode": pixels.crop_mode,
                "mean": list(pixels.mean),
                "std": list(pixels.std),
                "num_classes": len(spec.classes),
                "first_conv": "features.0.conv",
                "classifier": "last_linear",
                "custom_load": False,
            },
        },
        indent=2,
    )
