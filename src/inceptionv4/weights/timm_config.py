"""timm's config.json, which lies beside weights on the Hugging Face hub: classes and preprocessing.

A file is read as timm reads it, or refused by the name of the key: what is not heeded here could change an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from inceptionv4.class_names import normal, strange_character
from inceptionv4.errors import CheckpointError, ConfigError
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.strict_json import from_json, to_json

CONFIG = "config.json"
ARCHITECTURE = "inception_v4"
"""timm's name of the network; a name of its weights may follow, after a dot."""
SIGNS = ("architecture", "pretrained_cfg", "model_type", "architectures")
"""Keys by which timm's files and those of transformers are told from other programs'."""
OUTSIDE = (
    "num_classes",
    "label_names",
    "label_offset",
    "id2label",
    "label2id",
    "global_pool",
    "in_chans",
    "model_args",
)
"""Keys that count beside `pretrained_cfg`; those of preprocessing count in it alone."""
PLAIN = {"output_stride": 32, "norm_layer": "batchnorm2d", "norm_eps": 1e-3, "act_layer": "relu"}
"""Of `model_args`: what an Inception-v4 is built with unless these say another."""
HARMLESS_ARGUMENTS = ("drop_rate", "drop_path_rate", "pretrained")
"""Of `model_args`: what no answer depends on."""
INTERPOLATION, CROP_PCT, CROP_MODE = "bicubic", 0.875, "center"
"""What timm takes where a config says nothing, or null."""
MOST_STD = 10.0
"""A larger deviation is one of values in 0..255."""


def load_config(path: Path) -> dict[str, Any] | None:
    """The config at `path`, with the values of its `pretrained_cfg` among the others; None if it is not timm's.

    Raises:
        CheckpointError: it is no JSON, or describes another network.
    """
    try:
        config = from_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; copy it again, or remove it") from None
    if not isinstance(config, dict) or all(config.get(sign) is None for sign in SIGNS):
        return None
    architecture = next(
        (config[key] for key in ("architecture", "model_type", "architectures") if config.get(key)), None
    )
    if architecture is None:
        raise CheckpointError(f"{path} has no architecture, which timm needs, too; write {ARCHITECTURE!r} there")
    if not isinstance(architecture, str) or architecture.partition(".")[0] != ARCHITECTURE:
        raise CheckpointError(f"{path} describes {_show(architecture)}; this package runs {ARCHITECTURE}")
    if "pretrained_cfg" not in config:  # as files before timm 0.8
        return config | ({"label_names": config["labels"]} if "labels" in config else {})
    pretrained = config["pretrained_cfg"]
    if not isinstance(pretrained, dict):
        raise CheckpointError(f"{path}: pretrained_cfg must be an object, got {_show(pretrained)}")
    return pretrained | {key: config[key] for key in OUTSIDE if key in config}


def count_classes(config: Mapping[str, Any]) -> int | None:
    """The number of classes that a config gives; None if it gives none."""
    names, count = config.get("label_names"), config.get("num_classes")
    if isinstance(names, list | dict):
        return len(names)
    return count if isinstance(count, int) else None


def read_config(path: Path, spec: ModelSpec) -> dict[str, Any]:
    """What the config.json at `path` says of classes and preprocessing, as changes to `spec`; none if it is not timm's.

    Raises:
        CheckpointError: as `load_config` and `apply_config`.
    """
    config = load_config(path)
    return {} if config is None else apply_config(path, config, spec)


def apply_config(path: Path, config: Mapping[str, Any], spec: ModelSpec, *, dropped: int = 0) -> dict[str, Any]:
    """What `config`, which `load_config` read from `path`, says of classes and preprocessing, as changes to `spec`.
    `dropped` outputs that the weights' file has before the first class were left out.

    As timm does unless told otherwise, this leaves `test_input_size` and `test_crop_pct` aside.

    Raises:
        CheckpointError: it describes another network than that of `spec`, or a preprocessing that there is not.
    """
    _check_network(path, config, len(spec.classes), dropped)
    names = _class_names(path, config, len(spec.classes))
    try:
        preprocessing = replace(
            spec.preprocessing,
            size=_size(path, config.get("input_size")),
            crop=_share(path, config.get("crop_pct")),
            crop_mode=_word(path, config, "crop_mode", CROP_MODE),
            interpolation=_word(path, config, "interpolation", INTERPOLATION),
            mean=_three(path, config, "mean", most=1.0),
            std=_three(path, config, "std", most=MOST_STD),
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return {"preprocessing": preprocessing} | ({} if names is None else {"classes": names})


def _check_network(path: Path, config: Mapping[str, Any], classes: int, dropped: int) -> None:
    """Raise CheckpointError unless the config is that of a plain Inception-v4 with so many classes."""
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{path}: model_args must be an object, got {_show(arguments)}")
    wanted = {"global_pool": "avg", "num_classes": classes, "in_chans": 3, "label_offset": dropped}
    given = [(key, config.get(key)) for key in wanted]
    given += [(key, value) for key, value in arguments.items() if key not in HARMLESS_ARGUMENTS]
    wanted |= PLAIN
    for key, value in given:
        if value is None or (key in wanted and value == wanted[key]):
            continue
        if key == "num_classes":
            raise CheckpointError(f"{path} gives num_classes {_show(value)}, the weights have {classes}")
        expected = f"; only {wanted[key]!r} is read here" if key in wanted else ""
        raise CheckpointError(f"{path} builds another network: {key} {_show(value)}{expected}")


def _class_names(path: Path, config: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """Names by `label_names` of timm's, else by transformers' `id2label` or `label2id`; None where none is given."""
    key = next((key for key in ("label_names", "id2label", "label2id") if config.get(key) is not None), None)
    if key is None:
        return None
    names = config[key]
    if key == "label2id":
        names = _inverse(path, names)
    if isinstance(names, dict):  # timm's label_names may be one, too
        if names.keys() != {str(number) for number in range(len(names))}:
            raise CheckpointError(f"{path}: {key} must name the numbers from 0 on, got {_show(config[key])}")
        names = [names[str(number)] for number in range(len(names))]
    elif key != "label_names":
        raise CheckpointError(f"{path}: {key} must be an object, got {_show(names)}")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise CheckpointError(f"{path}: {key} must be a list of names, got {_show(config[key])}")
    if len(names) != classes:
        raise CheckpointError(f"{path} names {len(names)} classes by {key}, the weights have {classes}")
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if strange := strange_character(name):
            raise CheckpointError(f"{path}: the name {_show(name)} of {key} has the character {strange}; remove it")
        if (other := first.setdefault(normal(name), number)) != number:
            raise CheckpointError(
                f"{path}: {key} calls the classes {other} and {number} {_show(name)}; each needs a name of its own"
            )
    return tuple(first)


def _inverse(path: Path, numbers: Any) -> dict[str, str]:
    """The names of `label2id` by their numbers, which are text as JSON has them in `id2label`."""
    names = {str(number): name for name, number in numbers.items()} if isinstance(numbers, dict) else {}
    if not isinstance(numbers, dict) or len(names) != len(numbers):
        raise CheckpointError(f"{path}: label2id must give each name a number of its own, got {_show(numbers)}")
    return names


def _size(path: Path, value: Any) -> int:
    """The side of `input_size`, which is [3, side, side]."""
    match value:
        case [3, int() as height, int() as width] if height == width:
            return height
    raise CheckpointError(f"{path}: input_size must be [3, side, side], of a square, got {_show(value)}")


def _share(path: Path, value: Any) -> float:
    """`crop_pct`, or what timm takes in its place."""
    if value is not None and not _is_number(value, most=1.0):
        raise CheckpointError(f"{path}: crop_pct must be a number from 0 to 1, got {_show(value)}")
    return value or CROP_PCT


def _word(path: Path, config: Mapping[str, Any], key: str, default: str) -> Any:
    """A word, or what timm takes where it is null or empty; whether there is such a word is checked elsewhere."""
    value = config.get(key) or default
    if not isinstance(value, str):
        raise CheckpointError(f"{path}: {key} must be a word, got {_show(value)}")
    return value


def _three(path: Path, config: Mapping[str, Any], key: str, *, most: float) -> tuple[float, float, float]:
    """Three numbers from 0 to `most`, of values in 0..1."""
    match config.get(key):
        case [red, green, blue] if all(_is_number(part, most=most) for part in (red, green, blue)):
            return float(red), float(green), float(blue)
        case value:
            raise CheckpointError(f"{path}: {key} must be three numbers for values in 0..1, got {_show(value)}")


def _is_number(value: Any, *, most: float) -> bool:
    """True for a number from 0 to `most`, which no truth value and no NaN is."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _show(value: Any) -> str:
    """A value as JSON, cut to a line."""
    try:
        text = to_json(value)
    except RecursionError:
        return "lists within lists"
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
