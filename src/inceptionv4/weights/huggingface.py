"""Models on the Hugging Face hub, and folders as timm writes them there: model.safetensors, config.json, README.md."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from inceptionv4.errors import CheckpointError, ConfigError, UsageError
from inceptionv4.printable import printable
from inceptionv4.spec import ModelSpec
from inceptionv4.strict_json import to_json

PREFIXES = ("hf-hub:", "hf_hub:")
CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In the order in which they are preferred."""


def is_on_hub(model: str) -> bool:
    """Whether a model's name is one of the hub's, such as `hf-hub:timm/inception_v4.tf_in1k`."""
    return model.startswith(PREFIXES)


def download(model: str) -> Path:
    """The weights of `hf-hub:OWNER/NAME` or `hf-hub:OWNER/NAME@REVISION` in the hub's cache, beside their config.json.

    huggingface_hub does it, and heeds its own environment: HF_HUB_OFFLINE, HF_ENDPOINT, HF_HOME, HF_TOKEN.

    Raises:
        UsageError: huggingface_hub is not installed, or the model is not there, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError:
        raise UsageError("models on the hub are fetched with huggingface-hub: pip install 'inceptionv4[hub]'") from None
    name, _, revision = model.partition(":")[2].partition("@")
    try:
        hf_hub_download(name, CONFIG, revision=revision or None)
        for weights in WEIGHTS:
            try:
                return Path(hf_hub_download(name, weights, revision=revision or None))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"cannot fetch {model}: {reason}; check its name and the network, or fetch it elsewhere and give the folder"
        ) from None
    raise UsageError(f"{model} has no weights that can be read: neither {WEIGHTS[0]} nor {WEIGHTS[1]}")


def find_in_folder(folder: Path) -> Path | None:
    """The weights of a folder like those on the hub, if it is one."""
    if (folder / CONFIG).is_file():
        for weights in WEIGHTS:
            if (folder / weights).is_file():
                return folder / weights
    return None


def read_config(path: Path, spec: ModelSpec) -> dict[str, Any]:
    """What a config.json of timm's says of classes and preprocessing, as changes to `spec`.

    Raises:
        CheckpointError: it is no JSON, or of another network, or contradicts the weights.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        known = {**config, **config.get("pretrained_cfg", {})}
        architecture = config.get("architecture", "inception_v4")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if architecture != "inception_v4":
        raise CheckpointError(f"{path} describes {architecture!r}; this package runs inception_v4")
    changes: dict[str, Any] = {}
    names = known.get("label_names")
    if isinstance(names, list):
        if len(names) != len(spec.classes):
            raise CheckpointError(f"{path} names {len(names)} classes, the weights have {len(spec.classes)}")
        changes["classes"] = tuple(map(str, names))
    pixels: dict[str, Any] = {"crop": known.get("crop_pct"), "interpolation": known.get("interpolation")}
    pixels |= {name: tuple(known[name]) for name in ("mean", "std") if name in known}
    if "input_size" in known:
        pixels["size"] = known["input_size"][-1]
    try:
        changes["preprocessing"] = replace(
            spec.preprocessing, **{name: value for name, value in pixels.items() if value is not None}
        )
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    return changes


def make_config(spec: ModelSpec) -> str:
    """The config.json that timm reads `spec` from."""
    pixels = spec.preprocessing
    return to_json(
        {
            "architecture": "inception_v4",
            "num_classes": len(spec.classes),
            "num_features": 1536,
            "label_names": list(spec.classes),
            "pretrained_cfg": {
                "input_size": [3, pixels.size, pixels.size],
                "fixed_input_size": False,
                "interpolation": pixels.interpolation,
                "crop_pct": pixels.crop,
                "crop_mode": "center",
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


def make_card(spec: ModelSpec, training: dict[str, Any]) -> str:
    """A README.md with the hub's front matter: what the model is, how good it is, how it is used."""
    pixels = spec.preprocessing
    metrics, origin = training.get("metrics") or {}, printable(spec.origin) or "unknown weights"
    lines = [
        "---",
        "tags: [image-classification, timm]",
        "library_name: timm",
        "pipeline_tag: image-classification",
        "---",
        "",
        "# Inception-v4",
        "",
        f"{len(spec.classes)} classes, {pixels.size} x {pixels.size} pixels, from {origin}.",
        "",
    ]
    if "top1" in metrics:
        lines += [f"Top-1 on the held-out images: {metrics['top1']:.2%}.", ""]
    lines += [
        f"The shorter side of an image becomes {int(pixels.size / pixels.crop)} pixels ({pixels.interpolation}), the "
        f"central square is cut out, and values in 0..1 become (value - {list(pixels.mean)}) / {list(pixels.std)}.",
        "",
        "```python",
        "import timm",
        'model = timm.create_model("local-dir:THIS FOLDER", pretrained=True)',
        "```",
        "",
        "```sh",
        "inceptionv4 predict THIS_FOLDER image.jpg",
        "```",
        "",
    ]
    return "\n".join(lines)
