"""What is written for others, they read: timm strictly, by its names and as a folder of the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import s3
import safetensors.torch
import timm
import torch

from inceptionv4.errors import UsageError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime import storage
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint
from inceptionv4.weights.load import load_model, read_model
from inceptionv4.weights.write import format_of, write_folder, write_timm

PIXELS = Preprocessing(size=150, crop=0.9, interpolation="bilinear", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
IMAGES = torch.randn(2, 3, 75, 75, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    torch.manual_seed(0)
    network = InceptionV4(3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    spec = ModelSpec(classes=("a", "ü", "c d"), preprocessing=PIXELS, origin="a test")
    checkpoint = Checkpoint(network.state_dict(), spec, {"metrics": {"top1": 0.9}})
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_checkpoint(checkpoint, path)
    return path, checkpoint


def answers(path: Path) -> torch.Tensor:
    network, _ = load_model(path)
    with torch.no_grad():
        return network(IMAGES)


@torch.no_grad()
def test_timm_loads_its_names_strictly_and_answers_alike(model: tuple[Path, Checkpoint], tmp_path: Path) -> None:
    write_timm(model[1], tmp_path / "timm.safetensors")
    network = timm.create_model("inception_v4", num_classes=3).eval()
    network.load_state_dict(safetensors.torch.load_file(tmp_path / "timm.safetensors"), strict=True)
    torch.testing.assert_close(network(IMAGES), answers(model[0]), rtol=1e-5, atol=1e-5)
    back, report = read_model(tmp_path / "timm.safetensors")
    assert report is not None
    assert report.taken == 896
    assert not report.skipped + report.folded
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in model[1].weights.items())
    assert back.spec.classes == model[1].spec.classes  # which our own note in the file says
    assert back.spec.preprocessing == PIXELS


@torch.no_grad()
def test_a_folder_of_the_hub_is_a_model_of_timms_and_of_ours(model: tuple[Path, Checkpoint], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_folder(model[1], folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.testing.assert_close(network(IMAGES), answers(model[0]), rtol=1e-5, atol=1e-5)
    wanted = timm.data.resolve_model_data_config(network)
    assert list(wanted["input_size"]) == [3, 150, 150]
    assert (wanted["crop_pct"], wanted["interpolation"]) == (0.9, "bilinear")
    assert (tuple(wanted["mean"]), tuple(wanted["std"])) == (PIXELS.mean, PIXELS.std)
    assert network.pretrained_cfg["label_names"] == ["a", "ü", "c d"]
    back, _ = read_model(folder)
    assert (back.spec.classes, back.spec.preprocessing) == (("a", "ü", "c d"), PIXELS)
    torch.testing.assert_close(answers(folder), answers(model[0]), rtol=1e-5, atol=1e-5)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert "90.00%" in card


@torch.no_grad()
def test_a_folder_that_timm_wrote(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("inception_v4", num_classes=3).eval()
    config = {"label_names": ["x", "y", "z"], "pretrained_cfg": {"input_size": (3, 100, 100), "crop_pct": 0.95}}
    timm.models.save_for_hf(network, tmp_path, model_config=config)
    checkpoint, _ = read_model(tmp_path)
    assert checkpoint.spec.classes == ("x", "y", "z")
    assert checkpoint.spec.preprocessing == Preprocessing(size=100, crop=0.95)
    torch.testing.assert_close(answers(tmp_path), network(IMAGES), rtol=1e-4, atol=1e-5)


def test_networks_that_the_other_cannot_build_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for changes, words in (
        ({"width": 0.1}, "timm has no Inception-v4 of this kind (width 0.1)"),
        ({"architecture": "inception-v4-paddleclas"}, "timm has no Inception-v4 of this kind (PaddleClas' network)"),
    ):
        network = InceptionV4(2, **changes)
        checkpoint = Checkpoint(network.state_dict(), ModelSpec(classes=("a", "b"), **changes))
        with pytest.raises(UsageError, match=re.escape(words)):
            write_folder(checkpoint, tmp_path / "folder")
        with pytest.raises(UsageError, match=re.escape(words)):
            write_timm(checkpoint, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_name_says_the_format(tmp_path: Path) -> None:
    assert format_of(Path("a.safetensors")) == "inceptionv4"
    assert format_of(Path("a.ckpt")) == "mindspore"
    assert format_of(Path("folder")) == "huggingface"
    (tmp_path / "v1.0").mkdir()
    assert format_of(tmp_path / "v1.0") == "huggingface"
    with pytest.raises(UsageError, match=r"what is x\.bin to be"):
        format_of(Path("x.bin"))


def test_the_command_converts_there_and_back(
    model: tuple[Path, Checkpoint], tmp_path: Path, command: Callable[..., object]
) -> None:
    source, checkpoint = model
    result = command("convert", source, tmp_path / "timm.safetensors", "--to", "timm")
    assert result.code == 0, result.err
    result = command("convert", tmp_path / "timm.safetensors", tmp_path / "ours.safetensors")
    assert "timm: 896 arrays" in result.out
    assert "3 classes (a, ü, c d), 150 px, crop 0.9, bilinear, mean 0.1 0.2 0.3, std 0.4 0.5 0.6" in result.out
    back, report = read_model(tmp_path / "ours.safetensors")
    assert report is None
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in checkpoint.weights.items())
    (tmp_path / "classes.txt").write_text("one\ntwo\nthree\n")
    result = command("convert", source, tmp_path / "n.safetensors", "--classes", tmp_path / "classes.txt")
    assert read_model(tmp_path / "n.safetensors")[0].spec.classes == ("one", "two", "three")
    for text, words in (("a\nb\n", "names 2 classes, the weights have 3"), ("a\nb\na\n", "names 'a' twice")):
        (tmp_path / "classes.txt").write_text(text)
        result = command("convert", source, tmp_path / "no.safetensors", "--classes", tmp_path / "classes.txt")
        assert (result.code, words in result.err) == (2, True)
    before = source.read_bytes()
    result = command("convert", source, source)
    assert (result.code, "is the source" in result.err) == (2, True)
    assert source.read_bytes() == before
    assert not (tmp_path / "no.safetensors").exists()
    result = command("convert", "nothing", tmp_path / "no.safetensors")
    assert (result.code, "no model at nothing" in result.err) == (2, True)


def test_a_config_that_contradicts_its_weights_is_refused(model: tuple[Path, Checkpoint], tmp_path: Path) -> None:
    write_folder(model[1], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for changes, words in (
        ({"architecture": "resnet50"}, 'describes "resnet50"'),
        ({"label_names": ["a"]}, "names 1 classes by label_names, the weights have 3"),
        (
            {"pretrained_cfg": {**config["pretrained_cfg"], "interpolation": "lanczos"}},
            "interpolation must be one of bilinear, bicubic",
        ),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(Exception, match=words):
            read_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Exception, match=r"config\.json cannot be read"):
        read_model(tmp_path)


def test_a_model_in_storage_is_converted_again_and_again(
    narrow_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable
) -> None:
    """The second time there is an output, which is no source."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3.running(s3.moto(tmp_path / "log")) as server:
        s3.use(monkeypatch, server.port)
        s3.make_bucket(server.port)
        storage.write("s3://bucket/model.safetensors", narrow_model)
        results = [command("convert", "s3://bucket/model.safetensors", tmp_path / "a.safetensors") for _ in range(2)]
    assert [result.code for result in results] == [0, 0], results[1].err
    assert results[0].out == results[1].out
    result = command("convert", "nowhere", tmp_path / "a.safetensors")
    assert (result.code, "no model at nowhere" in result.err) == (2, True)
