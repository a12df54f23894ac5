"""How other projects write down an Inception-v4, as data: what they call its 149 convolutions, and what they do to
images. What they compute otherwise, and how that folds into our network, is in `assemble`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from inceptionv4.network.architecture import NORM_EPS, Branches, Chain, Convolution, Node
from inceptionv4.network.variants import ARCHITECTURES, Architecture
from inceptionv4.spec import Preprocessing

INCEPTION = Preprocessing()
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Norm:
    """What stands after the name of a norm for its four arrays, and the number added to its variance."""

    gamma: str | None
    beta: str
    mean: str
    variance: str
    eps: float = NORM_EPS


TORCH_NORM = Norm(".weight", ".bias", ".running_mean", ".running_var")
MINDSPORE_NORM = Norm(".gamma", ".beta", ".moving_mean", ".moving_variance")


@dataclass(frozen=True)
class NamingScheme:
    """A project's way of writing down an Inception-v4."""

    name: str
    convolutions: tuple[str, ...]
    """Of the 149, in the order of our architecture."""
    conv: str
    """What follows for its weights, and for its norm."""
    norm_of: str
    norm: Norm
    head: tuple[str, str]
    """Weights and bias of the classifier."""
    preprocessing: Preprocessing
    layout: Literal["torch", "tensorflow", "paddle"] = "torch"
    """Order of dimensions: OIHW and OI, HWIO and IO, OIHW and IO."""
    architecture: Architecture = "inception-v4"
    skipped: tuple[tuple[str, str], ...] = ()
    """Patterns of names that are not needed, with the reason; `{name}` stands for any array that is."""

    def reason_to_skip(self, name: str, needed: Iterable[str]) -> str | None:
        """Why an array that the network does not need is there, or None if that cannot be said."""
        for pattern, reason in self.skipped:
            before, has_name, after = pattern.partition("{name}")
            match = re.fullmatch(before + ("(.+?)" if has_name else "") + after, name)
            if match and (not has_name or match[1] in needed):
                return reason
        return None


def _numbered(prefix: str, count: int) -> Iterator[str]:
    return (f"{prefix}{number}" for number in range(count))


def _blocks(prefixes: Iterable[str], convolutions: Iterable[str]) -> tuple[str, ...]:
    convolutions = tuple(convolutions)
    return tuple(prefix + name for prefix in prefixes for name in convolutions)


def our_convolutions(architecture: Architecture = "inception-v4") -> tuple[str, ...]:
    """The names of the 149 in our network, in the order of the architecture."""

    def names(node: Node, name: str) -> Iterator[str]:
        match node:
            case Convolution():
                yield name
            case Chain(nodes) | Branches(nodes):
                for number, part in enumerate(nodes):
                    yield from names(part, f"{name}.{number}")

    stages = ARCHITECTURES[architecture]
    return tuple(name for stage in stages for name in names(stage.node, f"features.{stage.name}"))


def _timm() -> tuple[str, ...]:
    a = ("branch0", *_numbered("branch1.", 2), *_numbered("branch2.", 3), "branch3.1")
    b = ("branch0", *_numbered("branch1.", 3), *_numbered("branch2.", 5), "branch3.1")
    c = ("branch0", "branch1_0", "branch1_1a", "branch1_1b", *_numbered("branch2_", 3))
    c = (*c, "branch2_3a", "branch2_3b", "branch3.1")
    return (
        *_numbered("features.", 3),
        "features.3.conv",
        *_numbered("features.4.branch0.", 2),
        *_numbered("features.4.branch1.", 4),
        "features.5.conv",
        *_blocks((f"features.{i}." for i in range(6, 10)), a),
        *_blocks(("features.10.",), ("branch0", *_numbered("branch1.", 3))),
        *_blocks((f"features.{i}." for i in range(11, 18)), b),
        *_blocks(("features.18.",), (*_numbered("branch0.", 2), *_numbered("branch1.", 4))),
        *_blocks((f"features.{i}." for i in range(19, 22)), c),
    )


def _mindspore() -> tuple[str, ...]:
    """The model zoo and MindCV agree, but for what follows."""
    a = ("branch_0", *_numbered("branch_1.", 2), *_numbered("branch_2.", 3), "branch_3.1")
    b = ("branch_0", *_numbered("branch_1.", 3), *_numbered("branch_2.", 5), "branch_3.1")
    c = ("branch_0", "branch_1", "branch_1_1", "branch_1_2", *_numbered("branch_2.", 3))
    c = (*c, "branch_2_1", "branch_2_2", "branch_3.1")
    stem = (
        *("conv2d_1a_3x3", "conv2d_2a_3x3", "conv2d_2b_3x3", "mixed_3a_branch_1"),
        *_numbered("mixed_4a_branch_0.", 2),
        *_numbered("mixed_4a_branch_1.", 4),
        "mixed_5a_branch_0",
    )
    return (
        *_blocks(("features.0.",), stem),
        *_blocks((f"features.{i}." for i in range(1, 5)), a),
        *_blocks(("features.5.",), ("branch_0", *_numbered("branch_1.", 3))),
        *_blocks((f"features.{i}." for i in range(6, 13)), b),
        *_blocks(("features.13.",), (*_numbered("branch_0.", 2), *_numbered("branch_1.", 4))),
        *_blocks((f"features.{i}." for i in range(14, 17)), c),
    )


def _slim() -> tuple[str, ...]:
    def branch(number: int, *kernels: str) -> tuple[str, ...]:
        return tuple(f"Branch_{number}/Conv2d_{kernel}" for kernel in kernels)

    a = (*branch(0, "0a_1x1"), *branch(1, "0a_1x1", "0b_3x3"), *branch(2, "0a_1x1", "0b_3x3", "0c_3x3"))
    b = (*branch(0, "0a_1x1"), *branch(1, "0a_1x1", "0b_1x7", "0c_7x1"))
    b = (*b, *branch(2, "0a_1x1", "0b_7x1", "0c_1x7", "0d_7x1", "0e_1x7"))
    c = (*branch(0, "0a_1x1"), *branch(1, "0a_1x1", "0b_1x3", "0c_3x1"))
    c = (*c, *branch(2, "0a_1x1", "0b_3x1", "0c_1x3", "0d_1x3", "0e_3x1"))
    pooled = branch(3, "0b_1x1")
    within = (
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Mixed_3a/Branch_1/Conv2d_0a_3x3"),
        *_blocks(("Mixed_4a/",), branch(0, "0a_1x1", "1a_3x3")),
        *_blocks(("Mixed_4a/",), branch(1, "0a_1x1", "0b_1x7", "0c_7x1", "1a_3x3")),
        "Mixed_5a/Branch_0/Conv2d_1a_3x3",
        *_blocks((f"Mixed_5{letter}/" for letter in "bcde"), (*a, *pooled)),
        *_blocks(("Mixed_6a/",), (*branch(0, "1a_3x3"), *branch(1, "0a_1x1", "0b_3x3", "1a_3x3"))),
        *_blocks((f"Mixed_6{letter}/" for letter in "bcdefgh"), (*b, *pooled)),
        *_blocks(("Mixed_7a/",), branch(0, "0a_1x1", "1a_3x3")),
        *_blocks(("Mixed_7a/",), branch(1, "0a_1x1", "0b_1x7", "0c_7x1", "1a_3x3")),
        *_blocks((f"Mixed_7{letter}/" for letter in "bcd"), (*c, *pooled)),
    )
    return _blocks(("InceptionV4/",), within)


def _paddle() -> tuple[str, ...]:
    a = ("_conv1", "_conv2", "_conv3_1", "_conv3_2", "_conv4_1", "_conv4_2", "_conv4_3")
    b = ("_conv1", "_conv2", *(f"_conv3_{i}" for i in range(1, 4)), *(f"_conv4_{i}" for i in range(1, 6)))
    c = ("_conv1", "_conv2", "_conv3_0", "_conv3_1", "_conv3_2", "_conv4_0", "_conv4_00", "_conv4_000")
    stem = ("_conv_1", "_conv_2", "_conv_3", "_conv2", "_conv1_1", "_conv1_2", *(f"_conv2_{i}" for i in range(1, 5)))
    return (
        *_blocks(("_inception_stem.",), (*stem, "_conv3")),
        *_blocks((f"_inceptionA_{i}." for i in range(1, 5)), a),
        *_blocks(("_reductionA.",), ("_conv2", "_conv3_1", "_conv3_2", "_conv3_3")),
        *_blocks((f"_inceptionB_{i}." for i in range(1, 8)), b),
        *_blocks(("_reductionB.",), ("_conv2_1", "_conv2_2", "_conv3_1", "_conv3_2", "_conv3_3", "_conv3_4")),
        *_blocks((f"_inceptionC_{i}." for i in range(1, 4)), (*c, "_conv4_1", "_conv4_2")),
    )


_MINDSPORE_SKIPPED = (
    (r"(?:moments?|moment1|moment2|mean_square|mean_gradient|accum|stat|adam_m|adam_v|m|v)\.{name}", "of an optimizer"),
    (r"ema\.{name}", "an average that was kept besides"),
    (
        r"(?:global|epoch|step|current_step|current_epoch)_?(?:num|step|epoch)?|learning_rate|lr|momentum"
        r"|beta[12]_power|scale_sense|loss_scale|current_iterator_step|last_overflow_iterator_step",
        "a number of the training",
    ),
)

OURS = NamingScheme(
    "ours, without a specification", our_convolutions(), ".conv.weight", ".norm", TORCH_NORM,
    ("classifier.weight", "classifier.bias"), INCEPTION,
)  # fmt: skip
TIMM = NamingScheme(
    "timm", _timm(), ".conv.weight", ".bn", TORCH_NORM, ("last_linear.weight", "last_linear.bias"), INCEPTION
)
CADENE = NamingScheme(
    "Cadene", TIMM.convolutions, ".conv.weight", ".bn", TORCH_NORM, TIMM.head, Preprocessing(interpolation="bilinear"),
)  # fmt: skip
ZOO = NamingScheme(
    "MindSpore's model zoo", _mindspore(), ".conv.conv.weight", ".conv.batchnorm",
    Norm(".gamma", ".beta", ".moving_mean", ".moving_variance", eps=1e-5),
    ("softmax.dense.weight", "softmax.dense.bias"),
    # The shorter side becomes 299, and nothing of it is cut off.
    Preprocessing(crop=1.0, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD),
    skipped=_MINDSPORE_SKIPPED,
)  # fmt: skip
MINDCV = NamingScheme(
    "MindCV", _mindspore(), ".conv.weight", ".bn", MINDSPORE_NORM, ("classifier.weight", "classifier.bias"),
    Preprocessing(interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD),
    skipped=_MINDSPORE_SKIPPED,
)  # fmt: skip
SLIM = NamingScheme(
    "TF-slim", _slim(), "/weights", "/BatchNorm", Norm(None, "/beta", "/moving_mean", "/moving_variance"),
    ("InceptionV4/Logits/Logits/weights", "InceptionV4/Logits/Logits/biases"),
    # 0.875 of both sides are cut out of the middle and resized to 299 x 299.
    Preprocessing(interpolation="bilinear", crop_mode="squash"),
    layout="tensorflow",
    skipped=(
        (r"InceptionV4/AuxLogits/.*", "the classifier beside the network, for training only"),
        (r"{name}/(?:RMSProp(?:_1)?|Momentum|Adam(?:_1)?)", "of an optimizer"),
        (r"{name}/ExponentialMovingAverage", "an average that was kept besides"),
        (r"global_step|beta[12]_power|.*/BatchNorm/(?:moving_mean|moving_variance)/(?:biased|local_step)",
         "a number of the training"),
    ),
)  # fmt: skip
PADDLE = NamingScheme(
    "PaddleClas", _paddle(), "._conv.weight", "._batch_norm",
    Norm(".weight", ".bias", "._mean", "._variance", eps=1e-5),
    ("out.weight", "out.bias"),
    # The shorter side becomes 320.
    Preprocessing(crop=299 / 320, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD),
    layout="paddle",
    architecture="inception-v4-paddleclas",
)  # fmt: skip
NAMING_SCHEMES = (OURS, TIMM, ZOO, MINDCV, SLIM, PADDLE)
"""Told apart by their names; Cadene's are timm's, but have a class more."""
IN_TORCH = (OURS, TIMM, CADENE)
"""Whose files hold timm's network by its names or ours, so that a config.json of timm's may be theirs."""
