"""Settings of MindSpore's model zoo for Inception-v4 (default_config.yaml, _gpu, _cpu) as settings of ours.

Every key of those files is accounted for: it becomes a setting, with the defect named that is mended on the way, or it
is said why there is nothing to set. Keys that those files never had are reported as unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from inceptionv4.config import Config
from inceptionv4.errors import ConfigError, UsageError
from inceptionv4.settings import build, read_yaml

DEVICES = 8
"""That the original's rate and published figures are for; its batch is each device's."""

RENAMED = {
    "epoch_size": ("schedule.epochs", ""),
    "warmup_epochs": ("schedule.warmup_epochs", ""),
    "work_nums": ("data.workers", ""),
    "momentum": ("optimizer.momentum", ""),
    "decay": ("optimizer.decay", ""),
    "epsilon": ("optimizer.eps", ""),
    "weight_decay": ("optimizer.weight_decay", "there norms and biases decayed too, though they were listed as exempt"),
    "smooth_factor": ("loss.smoothing", "there configured and never used; now it takes effect"),
    "lr_max": ("optimizer.lr", "for a batch of 8 x batch_size; there it was the same for any number of devices"),
    "keep_checkpoint_max": ("checkpoint.keep", ""),
    "dataset_path": ("data.path", "there ModelArts overwrote it after /train had been appended"),
}
"""Key, setting, and what is mended."""

NOTHING_TO_SET = {
    "num_classes": "follows from the data; there it was 10 in the CPU file, for ImageNet",
    "loss_scale": "fp16 finds its own scale; there it was fixed, and overflowed steps were applied",
    "lr_init": "the warm-up starts at zero",
    "save_checkpoint_epochs": "every epoch ends with a state, and within one every 15 minutes do",
    "start_epoch": "`train --resume` knows where it was, and restores the optimizer too; there only weights were",
    "is_save_on_master": "the first process writes; there on a GPU all of them believed to be the first",
    "ds_sink_mode": "batches are decoded ahead by themselves",
    "distribute": "start several processes with torchrun",
    "is_distributed": "start several processes with torchrun",
    "group_size": "start several processes with torchrun",
    "rank": "torchrun says",
    "device_id": "torchrun gives each process its device",
    "platform": "the device is found, or named by --training.device",
    "device_target": "the device is found, or named by --training.device",
    "enable_profiling": "`inceptionv4 plan` says what is slow",
    "height": "images are square, of the width",
    "enable_modelarts": "paths and processes are given on the command line; there `--enable_modelarts False` was true",
    "need_modelarts_dataset_unzip": "archives are read in place; there a lock file could outlive a crash",
    "modelarts_dataset_unzip_name": "archives are read in place",
    "data_url": "give what is at that address as --data",
    "data_path": "the data are named once, in data.path",
    "train_url": "the run folder is named by --output",
    "output_path": "the run folder is named by --output",
    "load_path": "weights are named by model.weights",
    "checkpoint_url": "weights are named by model.weights",
    "ckpt_path": "the run folder holds the checkpoints",
    "checkpoint": "`evaluate` takes the checkpoint; there each file had another name for it",
    "checkpoint_path": "`evaluate` takes the checkpoint; there each file had another name for it",
    "ckpt_file": "`export` takes the checkpoint",
    "file_name": "`export --output` names the file",
    "file_format": "`export --format` names the format; AIR is deprecated",
    "result_path": "`evaluate` counts by itself; there another script did, for 1000 classes",
    "label_file": "labels come from the data; there they were cut out of file names",
}
"""Keys that no setting comes from, with the reason."""

COMPUTED = ("batch_size", "amp_level", "ds_type", "lr_end", "resume", "width")

STATISTICS = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
}


@dataclass(frozen=True)
class Line:
    """What became of one key: `setting` and `value`, or none, and words."""

    key: str
    setting: str | None = None
    value: Any = None
    words: str = ""

    def __str__(self) -> str:
        became = f"{self.setting}: {_plain(self.value)}" if self.setting else "nothing to set"
        return f"{self.key} -> {became}" + (f"  ({self.words})" if self.words else "")


@dataclass(frozen=True)
class Conversion:
    """The recipe as text, what became of each key, and the keys that are not the model zoo's."""

    recipe: str
    lines: tuple[Line, ...]
    unknown: tuple[str, ...]


def convert_settings(path: Path) -> Conversion:
    """A model-zoo file as a recipe of ours.

    Raises:
        UsageError: there is no such file, or it is no YAML with keys and values.
        ConfigError: a value that no setting of ours can have.
    """
    try:
        given = next(yaml.safe_load_all(path.read_text(encoding="utf-8")), None)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot read the settings in {path}: {reason}") from None
    if not isinstance(given, Mapping):
        raise UsageError(f"{path} holds no settings: expected lines such as `epoch_size: 250`")
    lines = (*_computed(given, path), *_listed(given))
    unknown = tuple(str(key) for key in given if not _known(key))
    recipe = _write(path, lines, unknown)
    build(Config, read_yaml(recipe, str(path)))
    return Conversion(recipe, lines, unknown)


def _known(key: object) -> bool:
    return key in RENAMED or key in NOTHING_TO_SET or key in COMPUTED


def _listed(given: Mapping[str, Any]) -> Iterator[Line]:
    for key, value in given.items():
        if key in RENAMED:
            setting, words = RENAMED[key]
            yield Line(key, setting, value, words)
        elif key in NOTHING_TO_SET:
            yield Line(key, words=NOTHING_TO_SET[key])


def _computed(given: Mapping[str, Any], path: Path) -> Iterator[Line]:
    if "batch_size" in given:
        batch = _number(given, "batch_size", path)
        words = f"{DEVICES} x {batch:g}, of all devices together; one device takes it in {DEVICES} parts"
        yield Line("batch_size", "training.batch_size", int(DEVICES * batch), words)
        yield Line("batch_size", "training.accumulate", DEVICES)
        yield Line("batch_size", "optimizer.reference_batch", int(DEVICES * batch))
    if "amp_level" in given:
        level = str(given["amp_level"])
        words = "" if level == "O0" else "there pure fp16, whose overflowed steps were applied; now what the device can"
        yield Line("amp_level", "training.precision", "fp32" if level == "O0" else "auto", words)
    if "lr_end" in given and "lr_max" in given:
        share = _number(given, "lr_end", path) / _number(given, "lr_max", path)
        yield Line("lr_end", "schedule.final_factor", float(f"{share:.6g}"), "lr_end over lr_max")
    if "ds_type" in given:
        kind = str(given["ds_type"])
        if kind not in STATISTICS:
            raise ConfigError(f"ds_type must be {' or '.join(STATISTICS)}, got {kind!r} ({path})")
        mean, std = STATISTICS[kind]
        yield Line("ds_type", "image.mean", mean)
        yield Line("ds_type", "image.std", std)
        if kind == "imagenet":
            yield Line("ds_type", "augment.color", 0.4)
        else:
            words = "there a crop of a picture with a border of 4 pixels"
            yield Line("ds_type", "augment.area", [0.766, 1.0], words)
            yield Line("ds_type", "augment.aspect", [1.0, 1.0])
            yield Line("ds_type", "image.crop", 1.0)
    if "width" in given:
        yield Line("width", "image.size", int(_number(given, "width", path)), "there 299 was hard-coded besides")
    if given.get("resume"):
        yield Line("resume", "model.weights", given["resume"], "there, too, only weights were restored")
    elif "resume" in given:
        yield Line("resume", words="`train --resume` restores all of a training; there only weights were")


def _number(given: Mapping[str, Any], key: str, path: Path) -> float:
    try:
        number = float(given[key])
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if not 0 < number < math.inf:
        raise ConfigError(f"{key} must be a finite number above 0, got {given[key]!r} ({path})")
    return number


ALWAYS: dict[str, tuple[Any, str]] = {
    "model.dropout": (0.2, "there 80 % of the features were dropped: a probability taken for its opposite"),
    "optimizer.name": ("rmsprop", ""),
    "image.interpolation": ("bilinear", ""),
    "optimizer.clip_norm": (None, ""),
    "training.ema_decay": (0.0, "there the last weights were kept, without an evaluation in between"),
}
"""What the original's program fixed, whatever its file said."""


def _write(path: Path, lines: tuple[Line, ...], unknown: tuple[str, ...]) -> str:
    """The recipe: sections in the order of our own settings, each line with what is mended by it."""
    values: dict[str, tuple[Any, str]] = dict(ALWAYS)
    for line in lines:
        if line.setting:
            values[line.setting] = (line.value, line.words)
    text = [
        f"# {path.name} of MindSpore's model zoo, converted. Mended besides, by how training works here:",
        "# norms keep a tenth of each batch, not nine tenths; there is no norm on the pooled features or the logits;",
        "# a step that is no number is not taken; all held-out images are evaluated after each epoch, cropped as",
        "# published figures are.",
    ]
    if unknown:
        text.append(f"# Not known, and left out: {', '.join(unknown)}")
    for section in dict.fromkeys(key.partition(".")[0] for key in values):
        text.append(f"{section}:")
        for key, (value, words) in values.items():
            if key.startswith(section + "."):
                setting = f"  {key.partition('.')[2]}: {_plain(value)}"
                text.append(f"{setting:<34}# {words}" if words else setting)
    return "\n".join(text) + "\n"


def _plain(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
