"""What several tests need: photographs as a data set, a small model, and the command line in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from inceptionv4.cli import main
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint

# The suite runs in two processes, for two cores; those that tests start inherit it.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

TEXTURES = ("brick", "grass", "gravel")


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs in train/ and val/, cut from three photographs: the left of each is trained on, the right is not."""
    root = tmp_path_factory.mktemp("textures")
    generator = np.random.default_rng(0)
    for name in TEXTURES:
        photograph = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        assert photograph.size == (512, 512)
        for split, count, left, right in (("train", 60, 0, 340), ("val", 15, 340, 512)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                size = int(generator.integers(100, 150))
                x, y = generator.integers(left, right - size), generator.integers(0, 512 - size)
                crop = photograph.crop((x, y, x + size, y + size))
                crop.save(folder / f"{number:03}.jpg", quality=90)
    return root


@pytest.fixture(scope="session")
def narrow_spec() -> ModelSpec:
    return ModelSpec(classes=TEXTURES, width=0.1, preprocessing=Preprocessing(size=75, crop=1.0), origin="a test")


@pytest.fixture(scope="session")
def narrow_model(tmp_path_factory: pytest.TempPathFactory, narrow_spec: ModelSpec) -> Path:
    """The checkpoint of a narrow network with random weights."""
    torch.manual_seed(0)
    network = InceptionV4(3, width=narrow_spec.width)
    path = tmp_path_factory.mktemp("model") / "narrow.safetensors"
    save_checkpoint(Checkpoint(network.state_dict(), narrow_spec), path)
    return path


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command line in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert isinstance(exit_info.value.code, int)
        return Result(exit_info.value.code, out, err)

    return run
