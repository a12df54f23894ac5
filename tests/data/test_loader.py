"""Batches: the same whatever the workers, every validation image once, damaged files counted or refused."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from inceptionv4.config import AugmentConfig
from inceptionv4.data.index import Samples, read_dataset
from inceptionv4.data.loader import Batch, TrainingLoader, epoch_order, evaluation_batches
from inceptionv4.errors import DataError, ImageError
from inceptionv4.spec import Preprocessing

SMALL = Preprocessing(size=75, crop=1.0)


def stream(batches: Iterable[Batch]) -> list[tuple[list[int], list[int], str]]:
    return [
        (batch.indices.tolist(), batch.labels.tolist(), hashlib.sha256(batch.images.numpy()).hexdigest())
        for batch in batches
    ]


def loader(samples: Samples, workers: int = 0, seed: int = 0, batch_size: int = 16) -> TrainingLoader:
    return TrainingLoader(samples, SMALL, AugmentConfig(color=0.2), batch_size=batch_size, seed=seed, workers=workers)


@pytest.fixture
def samples(textures: Path) -> Samples:
    return read_dataset(textures).train


def test_batches_are_the_same_for_any_number_of_workers_and_from_a_zip(
    samples: Samples, textures: Path, tmp_path: Path
) -> None:
    reference = [stream(loader(samples).epoch(epoch)) for epoch in (0, 1)]
    zipped = read_dataset(shutil.make_archive(str(tmp_path / "textures"), "zip", textures)).train
    for source in (samples, zipped):
        for workers in (1, 2, 4):
            with_workers = loader(source, workers)
            assert [stream(with_workers.epoch(epoch)) for epoch in (0, 1)] == reference


def test_an_abandoned_epoch_leaves_no_threads(samples: Samples) -> None:
    before = threading.active_count()
    epoch = loader(samples, workers=3).epoch(0)
    assert isinstance(epoch, Generator)
    next(epoch)
    assert threading.active_count() == before + 3
    epoch.close()
    assert threading.active_count() == before


def test_epochs_and_seeds_differ_and_each_stands_alone(samples: Samples) -> None:
    first, second = (stream(loader(samples).epoch(epoch)) for epoch in (0, 1))
    assert stream(loader(samples).epoch(1)) == second
    hashes = [batch[2] for batch in [*first, *second, *stream(loader(samples, seed=1).epoch(0))]]
    assert len(set(hashes)) == len(hashes)


def test_an_epoch_is_full_batches_of_distinct_images(samples: Samples) -> None:
    batches = stream(loader(samples).epoch(0))
    assert [len(indices) for indices, _, _ in batches] == [16] * (180 // 16)
    seen = [index for indices, _, _ in batches for index in indices]
    assert len(set(seen)) == len(seen)
    for indices, labels, _ in batches:
        assert labels == samples.labels[indices].tolist()


def test_fewer_images_than_a_batch_are_one_batch(samples: Samples) -> None:
    few = Samples(samples.source, samples.rows[:5], samples.labels[:5], samples.classes)
    assert [len(batch) for batch in loader(few).epoch(0)] == [5]


def test_the_order_is_a_permutation_of_seed_epoch_and_size_alone() -> None:
    order = epoch_order(1000, 3, 4)
    assert Counter(order.tolist()) == Counter(range(1000))
    code = "from inceptionv4.data.loader import epoch_order as o; print(o(1000, 3, 4).tolist())"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert elsewhere.strip() == str(order.tolist())
    assert not np.array_equal(order, epoch_order(1000, 3, 5))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 45, 100])
def test_evaluation_counts_every_image_once(textures: Path, workers: int, batch_size: int) -> None:
    samples = read_dataset(textures).val
    batches = list(evaluation_batches(samples, SMALL, batch_size=batch_size, workers=workers))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(45))
    assert torch.cat([batch.labels for batch in batches]).tolist() == samples.labels.tolist()


@pytest.fixture
def damaged(textures: Path, tmp_path: Path) -> Path:
    """The textures with one training image and one validation image cut short, and a text called .jpg."""
    root = tmp_path / "damaged"
    shutil.copytree(textures, root)
    for path in ("train/brick/000.jpg", "val/grass/003.jpg"):
        os.truncate(root / path, (root / path).stat().st_size // 2)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_training_skips_and_counts_up_to_one_percent(damaged: Path, workers: int) -> None:
    before = {path: path.read_bytes() for path in damaged.rglob("*.jpg")}
    samples = read_dataset(damaged).train  # 180 images: one is 0.6 %
    whole = loader(samples, workers, batch_size=180)
    for epoch in range(2):
        assert [len(batch) for batch in whole.epoch(epoch)] == [179]
    assert list(whole.bad.values()) == [next(iter(whole.bad.values()))]
    assert str(damaged / "train/brick/000.jpg") in next(iter(whole.bad.values()))

    (damaged / "train/grass/001.jpg").write_text("this is a text")
    with pytest.raises(DataError, match=r"2 of 180 training images cannot be decoded, more than 1%; repair") as error:
        list(loader(samples, workers, batch_size=180).epoch(0))
    assert str(damaged / "train/grass/001.jpg") in str(error.value)
    (damaged / "train/grass/001.jpg").write_bytes(before[damaged / "train/grass/001.jpg"])
    assert {path: path.read_bytes() for path in damaged.rglob("*.jpg")} == before


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_names_the_damaged_image(damaged: Path, workers: int) -> None:
    samples = read_dataset(damaged).val
    with pytest.raises(ImageError, match=r"val/grass/003\.jpg cannot be decoded.*an evaluation counts every image"):
        list(evaluation_batches(samples, SMALL, batch_size=8, workers=workers))
