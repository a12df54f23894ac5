"""Every setting of a training run, with its one default. Recipes and the command line only say what differs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from inceptionv4.errors import ConfigError, UsageError
from inceptionv4.settings import Given, Section, build, did_you_mean, read_yaml, setting
from inceptionv4.spec import MOST_PIXELS, Preprocessing

LayoutName = Literal["folder", "zip", "tar", "shards", "csv", "parquet", "cifar", "imagenet"]
PrecisionOption = Literal["auto", "fp32", "bf16", "fp16"]
RuntimeName = Literal["torch", "onnxruntime", "openvino"]
RuntimeOption = Literal["auto", RuntimeName]
Sampling = Literal["natural", "balanced"]

MOST_IMAGES, MOST_EPOCHS, MOST_THREADS = 2**20, 1_000_000, 1024
"""More than any training has: beyond, a slip of the finger would fill the memory, or overflow somewhere deep down."""
MOST_SEED = 2**63 - 1
"""torch takes 64 bits, with a sign on some devices; numpy's generators take any number that is not negative."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    path: str | None = setting(None, "labelled images in any layout (docs/data.md), digits, or a URI (docs/storage.md)")
    val_fraction: float = setting(
        0.2, "share held out of each class where the data has no val folder", above=0, below=1
    )
    layout: LayoutName | None = setting(
        None, "folder, zip, tar, shards, csv, parquet, cifar, imagenet; null: recognise it"
    )
    label_column: str | None = setting(None, "column of a .csv or parquet that holds the classes; null: recognise it")
    image_column: str | None = setting(None, "column that holds the images, or their files' names; null: recognise it")
    split_column: str | None = setting(
        None, "column that says which part a row is of; none: no column does; null: recognise it"
    )
    group_column: str | None = setting(
        None, "column, such as the patient or the video, whose images stay on one side of the split; null: none"
    )
    train: str | None = setting(
        None, "part to train on: a folder, the beginning of files' names, or a value of the split column; null: by name"
    )
    val: str | None = setting(None, "part to hold out; null: by name")
    test: str | None = setting(None, "part to keep apart, neither trained on nor held out; null: none")
    sampling: Sampling = setting("natural", "natural: each image once an epoch; balanced: each class equally often")
    repeats: int = setting(
        1, "views of an image in one batch, of fewer images an epoch", at_least=1, at_most=MOST_IMAGES
    )
    on_error: Literal["raise", "skip"] = setting(
        "skip", "training images that cannot be decoded: skip up to 1 %, or raise"
    )
    scaled_decoding: bool = setting(
        True, "decode large JPEGs at 1/2, 1/4 or 1/8 where the crop has one and a half times the pixels needed"
    )
    workers: int | None = setting(
        None, "threads that decode; null: one on a CPU, one a core on an accelerator", at_least=0, at_most=MOST_THREADS
    )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Section):
    """Random changes to training images, drawn from (seed, epoch, image), those to whole batches from (seed, step)."""

    area: tuple[float, float] = setting((0.08, 1.0), "share of the image that the crop covers", above=0, at_most=1)
    aspect: tuple[float, float] = setting((0.75, 1.333), "width over height of the crop", above=0)
    flip: float = setting(0.5, "probability of a left-right flip", at_least=0, at_most=1)
    rotate: float = setting(0.0, "largest rotation either way, degrees", at_least=0, at_most=180)
    mixup: float = setting(0.0, "alpha of mixup, which blends two images and their labels; 0: none", at_least=0)
    cutmix: float = setting(0.0, "alpha of CutMix, which pastes a part of one on another; 0: none", at_least=0)
    policy: Literal["none", "autoaugment", "randaugment", "trivialaugment", "augmix"] = setting(
        "none", "none, autoaugment, randaugment, trivialaugment or augmix"
    )
    policy_operations: int = setting(2, "randaugment: operations on an image", at_least=1, at_most=100)
    policy_strength: int = setting(9, "randaugment: their strength", at_least=0, at_most=30)
    erase: float = setting(0.0, "probability of covering a box of 2 to 33 % with noise", at_least=0, at_most=1)
    color: float = setting(0.0, "largest relative change of brightness, contrast and saturation", at_least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("area", "aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"augment.{name} must run from low to high, got [{low:g}, {high:g}]")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    width: float = setting(
        1.0, "factor on the channels of every convolution; 1.0 is the paper's network", above=0, at_most=4
    )
    dropout: float = setting(0.2, "probability of dropping a pooled feature", at_least=0, below=1)
    weights: str | None = setting(
        None, "model to start from (docs/weights.md); its classifier is kept if the classes agree"
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    name: Literal["adamw", "rmsprop", "sgd"] = setting(
        "adamw", "adamw, rmsprop as TensorFlow defines it, or sgd with Nesterov's momentum"
    )
    lr: float = setting(1e-3, "peak learning rate", above=0)
    reference_batch: int | None = setting(
        None,
        "batch size that lr is for; others change it in proportion, adamw's by the root; null: none",
        at_least=1,
        at_most=MOST_IMAGES,
    )
    weight_decay: float = setting(
        0.05, "on convolution and classifier weights; norms and biases are exempt", at_least=0
    )
    betas: tuple[float, float] = setting(
        (0.9, 0.99), "adamw: decay of the mean and of the mean square", at_least=0, below=1
    )
    momentum: float = setting(0.9, "rmsprop, sgd: momentum", at_least=0, below=1)
    decay: float = setting(0.9, "rmsprop: decay of the mean square", at_least=0, below=1)
    eps: float = setting(1e-8, "added to the root (adamw) or inside it (rmsprop; the paper's is 1.0)", above=0)
    layer_decay: float = setting(
        1.0, "factor on the learning rate from each stage to the one before it; 1: the same for all", above=0, at_most=1
    )
    clip_norm: float | None = setting(1.0, "largest norm of the whole gradient; null: no limit", above=0)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Section):
    name: Literal["cosine", "linear", "step", "exponential", "one_cycle", "constant"] = setting(
        "cosine", "after the warm-up: cosine, linear, step, exponential, one_cycle or constant"
    )
    epochs: int = setting(30, "passes over the training images", at_least=1, at_most=MOST_EPOCHS)
    warmup_epochs: float = setting(1.0, "rise of the learning rate, linear but for one_cycle", at_least=0)
    first_size: int | None = setting(
        None,
        "image size of the first epoch, raised to the next image.size - 32 n (for 299, 160 becomes 171), growing "
        "evenly to image.size for the last quarter; null: one size",
        at_least=75,
        at_most=MOST_PIXELS,
    )
    final_factor: float = setting(
        0.0, "cosine, linear: learning rate at the end, as a share of the peak", at_least=0, at_most=1
    )
    decay_epochs: float = setting(
        2.0, "step, exponential: epochs for a fall by decay_factor (the paper's is 2)", at_least=1e-3
    )
    decay_factor: float = setting(0.94, "step, exponential: what is left after decay_epochs", above=0, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(
                f"schedule.warmup_epochs must be below schedule.epochs, got {self.warmup_epochs:g} and {self.epochs}"
            )


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    name: Literal["cross_entropy", "bce", "focal"] = setting("cross_entropy", "cross_entropy, bce or focal")
    smoothing: float = setting(0.1, "share of the target spread over all classes", at_least=0, below=1)
    focal_gamma: float = setting(2.0, "focal: how little sure answers count", at_least=0)
    teacher: str | None = setting(None, "model whose answers are learnt too (docs/weights.md); null: none")
    teacher_share: float = setting(0.5, "of the loss, that asks for the teacher's answers", above=0, at_most=1)
    teacher_temperature: float = setting(1.0, "that softens both answers for it", above=0)
    class_weights: Literal["none", "balanced"] = setting(
        "none", "balanced: the loss of an image counts in inverse proportion to the size of its class"
    )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    batch_size: int = setting(32, "images a step, over all processes", at_least=2, at_most=MOST_IMAGES)
    freeze: str | None = setting(None, "stages that stay as they are, such as stem or stem..reduction_a; null: none")
    patience: int | None = setting(
        None, "epochs without a better top-1 after which to stop; null: never", at_least=1, at_most=MOST_EPOCHS
    )
    accumulate: int = setting(
        1,
        "parts in which a batch goes through the network, over all processes, to save memory",
        at_least=1,
        at_most=MOST_IMAGES,
    )
    ema_decay: float = setting(
        0.99, "of the averaged weights, which are the ones evaluated; 0: none", at_least=0, below=1
    )
    precision: PrecisionOption = setting("auto", "fp32, bf16, fp16, or auto: bf16 where the device computes in it")
    eval_precision: PrecisionOption = setting(
        "auto", "of each epoch's evaluation: fp32, bf16, fp16, or auto: fp32 on a CPU, the training's on an accelerator"
    )
    sync_norms: bool = setting(False, "norms see the images of all processes (torch has it for accelerators only)")
    tracker: Literal["none", "tensorboard"] = setting("none", "where figures go besides the run folder: tensorboard")
    compile: Literal["none", "blocks", "full"] = setting(
        "none", "torch.compile of nothing, of each block by itself, or of the whole network"
    )
    activation_checkpointing: Literal["none", "blocks"] = setting(
        "none", "blocks: keep only what goes into each block, and compute the rest twice, to save memory"
    )
    device: str = setting("auto", "auto: an accelerator if there is one; or cpu, or a name of torch's")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation_checkpointing != "none" and self.compile != "none":
            raise ConfigError(
                "training.activation_checkpointing is for a network that is not compiled, which decides itself what "
                "it keeps; set it or training.compile to none"
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Section):
    keep: int = setting(3, "newest states that are kept, to resume from", at_least=1, at_most=MOST_EPOCHS)
    every_minutes: float = setting(15.0, "between states within an epoch; each epoch ends with one", at_least=0)


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    recipe: str = setting("custom", "name of the recipe; names the folder of its runs")
    output: str = setting("runs", "folder of run folders, or a URI such as s3://bucket/runs")
    seed: int = setting(0, "of weights, order and augmentation", at_least=0, at_most=MOST_SEED)
    data: DataConfig = DataConfig()
    image: Preprocessing = Preprocessing()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule.first_size is not None and self.schedule.first_size > self.image.size:
            raise ConfigError(
                f"schedule.first_size must be at most image.size, got {self.schedule.first_size} and {self.image.size}"
            )
        if not re.fullmatch(r"\w[\w.-]*", self.recipe):
            raise ConfigError(f"recipe names a folder: letters, digits, dots and dashes, got {self.recipe!r}")


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("inceptionv4") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(
    recipe: str | None = None, file: Path | None = None, overrides: dict[str, Given] | None = None
) -> Config:
    """Resolve a run's settings: a recipe of the package or a file, then `overrides` on top.

    Raises:
        UsageError: no such recipe or file.
        ConfigError: an unknown key, a wrong type, a value out of range; the message names the place.
    """
    if recipe is not None and file is not None:
        raise UsageError("give --recipe or --config, not both; a file can hold all that a recipe does")
    if file is not None:
        name, source = file.stem, str(file)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the settings in {file}: {error}") from None
    else:
        name = recipe or "finetune"
        if name not in recipes():
            raise UsageError(f"no recipe {name!r}; {did_you_mean(name, recipes())}")
        source = f"{name}.yaml"
        text = (resources.files("inceptionv4") / "recipes" / source).read_text(encoding="utf-8")
    given = {"recipe": Given(name, source)} | read_yaml(text, source) | (overrides or {})
    return build(Config, given)
