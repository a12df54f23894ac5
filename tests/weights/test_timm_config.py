"""A config.json beside weights is read as timm reads it, or refused by the name of the key."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm.data
import torch
from timm.models._hub import load_model_config_from_path
from timm.models._pretrained import PretrainedCfg

from inceptionv4.errors import CheckpointError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.formats.naming import MINDCV, TIMM
from inceptionv4.weights.load import read_model
from inceptionv4.weights.timm_config import read_config
from inceptionv4.weights.write import renamed, write_mindspore_ckpt

SPEC = ModelSpec(classes=("0", "1"))
PRETRAINED = {
    "input_size": [3, 299, 299], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
    "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": 2,
}  # fmt: skip
BASE: dict[str, Any] = {"architecture": "inception_v4", "num_classes": 2, "pretrained_cfg": PRETRAINED}


def pixels(**changes: Any) -> dict[str, Any]:
    return {**BASE, "pretrained_cfg": {**PRETRAINED, **changes}}


def read(folder: Path, config: Any) -> dict[str, Any]:
    path = folder / "config.json"
    path.write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    return read_config(path, SPEC)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_mode": "squash", "crop_pct": 1.0},
        {"crop_mode": "border"},
        {"crop_mode": None},
        {"crop_pct": None, "interpolation": None},
        {"test_input_size": [3, 320, 320], "test_crop_pct": 1.0},
        {"interpolation": "bilinear", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        {"input_size": [3, 75, 75], "mean": [0, 0, 0], "std": [1, 1, 1]},
    ],
    ids=str,
)
def test_preprocessing_is_timms_reading(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = read(tmp_path, pixels(**changes))["preprocessing"]
    expected = timm.data.resolve_data_config(pretrained_cfg=pixels(**changes)["pretrained_cfg"])
    assert [3, found.size, found.size] == list(expected["input_size"])
    assert (found.crop, found.crop_mode, found.interpolation) == tuple(
        expected[key] for key in ("crop_pct", "crop_mode", "interpolation")
    )
    assert (found.mean, found.std) == (tuple(expected["mean"]), tuple(expected["std"]))


VALUES: dict[str, list[Any]] = {
    "input_size": [[3, 299, 299], [3, 75, 75], [3, 224, 320], [1, 299, 299], 299, None, [3, 10**400, 10**400]],
    "test_input_size": [[3, 320, 320], None],
    "test_crop_pct": [1.0, 0.95],
    "interpolation": ["bilinear", "bicubic", "lanczos", "random", "", None, 3],
    "crop_pct": [0.875, 1.0, 1, 0, None, 1.5, "0.9", float("nan"), 10**400],
    "crop_mode": ["center", "squash", "border", "corner", "", None, ["center"]],
    "mean": [[0.485, 0.456, 0.406], [0, 0, 0], [0.5], [], 0.5, None, [123.675, 116.28, 103.53], [10**400] * 3],
    "std": [[0.229, 0.224, 0.225], [1, 1, 1], [0.5], 0.5, None, [58.395, 57.12, 57.375], [10**400] * 3],
    "num_classes": [2, 1000, None],
    "label_names": [["cat", "dog"], {"0": "cat", "1": "dog"}, ["cat"], ["cat", "cat"], None],
    "label_offset": [0, 1, None],
}


def test_no_config_is_read_otherwise_than_by_timm(tmp_path: Path) -> None:
    """Values as people write them, each within and beside `pretrained_cfg` or left out."""
    generator = random.Random(0)
    accepted = 0
    for _ in range(1500):
        # Mostly the first values of each list, which are good ones, or nearly all would be refused.
        changes = {
            key: values[min(int(generator.expovariate(0.8)), len(values) - 1)]
            for key, values in VALUES.items()
            if generator.random() < 0.6
        }
        beside = {key: generator.choice(VALUES[key]) for key in VALUES if generator.random() < 0.05}
        config = {"architecture": "inception_v4", **beside}
        config = {**config, **PRETRAINED, **changes} if generator.random() < 0.3 else {**config, **pixels(**changes)}
        try:
            found = read(tmp_path, config)
        except CheckpointError:
            continue
        accepted += 1
        pretrained, _, _ = load_model_config_from_path(tmp_path)
        known = PretrainedCfg(**pretrained).to_dict()
        expected = timm.data.resolve_data_config(pretrained_cfg=known)
        got = found["preprocessing"]
        assert [3, got.size, got.size] == list(expected["input_size"]), config
        for key, value in {
            "crop_pct": got.crop,
            "crop_mode": got.crop_mode,
            "interpolation": got.interpolation,
        }.items():
            assert value == expected[key], config
        assert (got.mean, got.std) == (tuple(expected["mean"]), tuple(expected["std"])), config
        names = known.get("label_names")
        names = list(names.values()) if isinstance(names, dict) else names
        assert list(found.get("classes") or []) == (names or []), config
        assert known.get("num_classes") in (2, None), config
    assert 150 < accepted < 1350


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        ({**BASE, "label_names": ["cat", "dog"]}, ("cat", "dog")),
        ({**BASE, "label_names": ["n1", "n2"], "label_descriptions": {"n1": "cat", "n2": "dog"}}, ("n1", "n2")),
        ({**BASE, "id2label": {"1": "dog", "0": "cat"}, "label_names": None}, ("cat", "dog")),
        (pixels(label_names=["cat", "dog"]), ("cat", "dog")),
        (BASE, None),
        (b"\xef\xbb\xbf" + json.dumps({**BASE, "label_names": ["cat", "dög"]}).encode(), ("cat", "dög")),
        ({"architecture": "inception_v4", **PRETRAINED, "label_names": ["a", "b"]}, ("a", "b")),  # older files
        ({"architecture": "inception_v4", **PRETRAINED, "labels": ["a", "b"]}, ("a", "b")),  # still older ones
        ({**BASE, "label_names": {"1": "dog", "0": "cat"}}, ("cat", "dog")),
        ({**BASE, "label2id": {"dog": 1, "cat": 0}}, ("cat", "dog")),
        ({**BASE, "label_names": ["n1", "n2"], "id2label": {"0": "cat", "1": "dog"}}, ("n1", "n2")),
        ({**BASE, "architecture": "inception_v4.tf_in1k", "label_names": ["a", "b"]}, ("a", "b")),
        ({**BASE, "model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]}, None),
        ({**BASE, "model_args": {"drop_rate": 0.2, "norm_eps": 0.001, "in_chans": 3, "global_pool": None}}, None),
        ({**BASE, "label_names": ["e\u0301", "b"]}, ("é", "b")),  # as data have it
    ],
)
def test_classes(tmp_path: Path, config: Any, classes: tuple[str, ...] | None) -> None:
    assert read(tmp_path, config).get("classes") == classes


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (pixels(input_size=[3, 224, 320]), r"input_size must be \[3, side, side\], of a square, got \[3, 224, 320\]"),
        (pixels(input_size=299), "input_size must be"),
        (pixels(input_size=None), "input_size must be"),
        (pixels(input_size=[1, 299, 299]), "input_size must be"),
        (pixels(input_size=[3, 299.5, 299.5]), "input_size must be"),
        (pixels(input_size=[3, 10**30, 10**30]), "size must be"),
        (pixels(mean=[123.675, 116.28, 103.53]), "mean must be three numbers for values in 0..1, got .123.675"),
        (pixels(mean=None), "mean must be three numbers"),
        (pixels(mean=0.5), "mean must be three numbers"),
        (pixels(mean=[0.5]), "mean must be three numbers"),
        (pixels(mean=[0.5, 0.5, float("nan")]), "NaN is not in JSON"),
        (pixels(std=[0, 1, 1]), "std must be"),
        (pixels(std=["1", "1", "1"]), "std must be three numbers"),
        (pixels(interpolation="lanczos"), "interpolation must be one of bilinear, bicubic"),
        (pixels(crop_mode="corner"), "crop_mode must be one of center, squash, border"),
        (pixels(crop_pct=1.2), "crop_pct must be a number from 0 to 1, got 1.2"),
        (pixels(crop_pct="1"), "crop_pct must be a number"),
        ({**BASE, "global_pool": "max"}, "global_pool \"max\"; only 'avg' is read here"),
        ({**BASE, "model_args": {"global_pool": "max"}}, 'global_pool "max"'),
        ({**BASE, "model_args": {"output_stride": 16}}, "another network: output_stride 16"),
        ({**BASE, "model_args": ["x"]}, "model_args must be an object"),
        ({**BASE, "in_chans": 1}, "in_chans 1"),
        ({**BASE, "num_classes": 5}, "num_classes 5, the weights have 2"),
        ({**BASE, "label_names": ["a"]}, "names 1 classes by label_names, the weights have 2"),
        ({**BASE, "label_names": ["a", 1]}, "label_names must be a list of names"),
        ({**BASE, "id2label": {"0": "a", "7": "b"}}, "id2label must name the numbers from 0 on"),
        ({**BASE, "id2label": ["a", "b"]}, "id2label must be an object"),
        ({**BASE, "label2id": {"a": 0, "b": 0}}, "label2id must give each name a number of its own"),
        ({**BASE, "label2id": {"a": 0, "b": 2}}, "label2id must name the numbers from 0 on"),
        ({**BASE, "label_names": ["crane", "crane"]}, 'label_names calls the classes 0 and 1 "crane"'),
        ({**BASE, "label_names": ["a", "b\n"]}, "has the character U\\+000A"),
        ({**BASE, "label_names": ["a", "\ud800"]}, "has the character U\\+D800"),
        ({**BASE, "label_offset": 1}, "label_offset 1; only 0 is read here"),
        (pixels(std=[255, 255, 255]), "std must be three numbers for values in 0..1"),
        (pixels(mean=[10**400] * 3), "mean must be three numbers"),
        (pixels(crop_pct=float("nan")), "cannot be read: NaN is not in JSON"),
        (pixels(crop_mode=["center"]), "crop_mode must be a word"),
        ({**BASE, "mean": [0, 0, 0], "pretrained_cfg": {**PRETRAINED, "mean": None}}, "mean must be three"),
        ({**BASE, "model_args": {"norm_eps": 1e-5}}, "norm_eps 1e-05; only 0.001"),
        ({"pretrained_cfg": PRETRAINED}, "has no architecture"),
        ({"architecture": ["inception_v4"]}, "describes"),
        ({"architectures": ["ViTForImageClassification"], "id2label": {"0": "a"}}, 'describes ."ViTForImage'),
        ({**BASE, "pretrained_cfg": None}, "pretrained_cfg must be an object, got null"),
        ({"architecture": "resnet50"}, 'describes "resnet50"'),
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, 'describes "vit"'),
        (b"\xff\xfe{", "cannot be read"),
        (b"", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"architecture": ' + b"[" * 900 + b"]" * 900 + b"}", "(describes|cannot be read)"),
        (b'{"architecture": "inception_v4", "input_size": ' + b"9" * 5000 + b"}", "cannot be read"),
    ],
)
def test_what_is_not_heeded_is_refused_by_its_key(tmp_path: Path, config: Any, key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"config\.json.*{key}"):
        read(tmp_path, config)


@pytest.mark.parametrize(
    "config",
    [
        {"lr": 0.1, "model": "inception_v4", "mean": None, "std": None, "input_size": None},
        {"lr": 0.1, "input_size": 299},
        {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
        [1],
        None,
        "text",
    ],
)
def test_a_config_of_another_program_changes_nothing(tmp_path: Path, config: Any) -> None:
    assert read(tmp_path, config) == {}


def test_a_file_is_read_with_the_config_beside_it_if_it_can_be_its_own(
    tmp_path: Path, command: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Timm's names, 1001 outputs: by themselves ImageNet's with a background; the config knows 1001 classes."""
    torch.manual_seed(0)
    checkpoint = Checkpoint(InceptionV4(1001).state_dict(), ModelSpec(classes=("x",) * 1001))
    path, config, mindcv = (tmp_path / name for name in ("m.safetensors", "config.json", "m.ckpt"))
    tensors = {name: tensor.contiguous() for name, tensor in renamed(checkpoint, TIMM).items()}
    safetensors.torch.save_file(tensors, path)
    assert len(read_model(path)[0].spec.classes) == 1000
    config.write_text(json.dumps({"model_type": "vit", "architectures": ["ViTForImageClassification"]}))
    result = command("convert", path, tmp_path / "out.safetensors")
    assert (result.code, result.err) == (1, f'error: {config} describes "vit"; this package runs inception_v4\n')
    assert not (tmp_path / "out.safetensors").exists()
    config.write_text(json.dumps({"lr": 0.1}))
    assert len(read_model(path)[0].spec.classes) == 1000
    assert f"{config} is not timm's and says nothing of these weights: not used" in capfd.readouterr().err
    config.write_text(json.dumps({**pixels(num_classes=1001, crop_mode="border"), "num_classes": 1001}))
    spec = read_model(path)[0].spec
    assert (len(spec.classes), spec.preprocessing.crop_mode) == (1001, "border")
    config.write_text(json.dumps({**pixels(num_classes=1000, label_offset=1), "num_classes": 1000}))
    spec = read_model(path)[0].spec
    assert (spec.classes[0], len(spec.classes)) == ("tench", 1000)
    write_mindspore_ckpt(checkpoint, mindcv)
    mindcv.with_name("m.ckpt.json").unlink()
    assert read_model(mindcv)[0].spec.preprocessing == MINDCV.preprocessing
    assert f"{config} is not used: no config.json describes weights of MindCV" in capfd.readouterr().err


def test_convert_takes_another_preprocessing(
    narrow_model: Path, narrow_spec: ModelSpec, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """As for weights of CIFAR-10, which the model zoo's file does not tell from ImageNet's."""
    output = tmp_path / "out.safetensors"
    options = ("--image.size", 99, "--image.crop_mode", "border", "--image.mean", "[0.4914, 0.4822, 0.4465]")
    result = command("convert", narrow_model, output, *options)
    assert result.code == 0, result.err
    assert "99 px, crop 1 (border), bicubic, mean 0.4914 0.4822 0.4465" in result.out
    changed = replace(narrow_spec.preprocessing, size=99, crop_mode="border", mean=(0.4914, 0.4822, 0.4465))
    assert read_model(output)[0].spec.preprocessing == changed
    output.unlink()
    for option, value, words in (
        ("--image.size", 10, "image.size must be >= 75, got 10 (--image.size)"),
        ("--image.szie", 99, "unknown setting image.szie (--image.szie); did you mean image.size?"),
        ("--optimizer.lr", 1, "unknown setting optimizer.lr"),
        ("--nothing", 1, "unknown setting nothing (--nothing); there are image.size, image.crop, image.crop_mode"),
    ):
        result = command("convert", narrow_model, output, option, value)
        assert (result.code, words in result.err) == (2, True), result.err
    assert not output.exists()
