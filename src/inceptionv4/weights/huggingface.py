"""Models on the Hugging Face hub, and folders as timm writes them there: model.safetensors, config.json, README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inceptionv4.errors import UsageError
from inceptionv4.printable import printable
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.timm_config import CONFIG, read_config

__all__ = ["download", "find_in_folder", "is_on_hub", "make_card", "read_config"]

PREFIXES = ("hf-hub:", "hf_hub:")
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
    side = {
        "center": "the shorter side of an image becomes {} pixels",
        "squash": "both sides of an image become {} pixels, out of proportion",
        "border": "the longer side of an image becomes {} pixels, with borders in the colour of the mean",
    }[pixels.crop_mode].format(int(pixels.size / pixels.crop))
    lines += [
        f"{side.capitalize()} ({pixels.interpolation}), the central square of {pixels.size} pixels is cut out, and "
        f"values in 0..1 become (value - {list(pixels.mean)}) / {list(pixels.std)}.",
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
