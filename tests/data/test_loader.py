"""Batches: the same whatever the workers, every validation image once, damaged files counted or refused."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Generator, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import LAYOUTS

from inceptionv4.config import AugmentConfig, Config, DataConfig, Sampling, TrainingConfig
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import Batch, TrainingLoader, evaluation_batches
from inceptionv4.data.samples import Samples
from inceptionv4.errors import ConfigError, DataError, ImageError
from inceptionv4.spec import Preprocessing

SMALL = Preprocessing(size=75, crop=1.0)


def stream(batches: Iterable[Batch]) -> list[tuple[list[int], list[int], str]]:
    return [
        (
            batch.indices.tolist(),
            batch.labels.tolist(),
            hashlib.sha256(batch.to_input(torch.device("cpu"), SMALL).numpy()).hexdigest(),
        )
        for batch in batches
    ]


def loader(
    samples: Samples,
    workers: int = 0,
    seed: int = 0,
    batch_size: int = 16,
    data: DataConfig | None = None,
    **ranks: int,
) -> TrainingLoader:
    config = Config(
        seed=seed,
        data=data or DataConfig(),
        image=SMALL,
        augment=AugmentConfig(color=0.2, rotate=5),
        training=TrainingConfig(batch_size=batch_size),
    )
    return TrainingLoader(samples, config, workers=workers, **ranks)


@pytest.fixture
def samples(textures: Path) -> Samples:
    return read_dataset(textures).train


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_stream_is_the_same_for_any_workers_and_from_any_batch_on(
    layout: str, textures: Path, tmp_path: Path
) -> None:
    samples = read_dataset(LAYOUTS[layout](textures, tmp_path)).train
    size = 16 if len(samples) == 180 else 9
    reference = [stream(loader(samples, batch_size=size).epoch(epoch)) for epoch in (0, 1)]
    assert len(reference[1]) == 11
    for workers in (0, 1, 3):
        with_workers = loader(samples, workers, batch_size=size)
        assert [stream(with_workers.epoch(epoch)) for epoch in (0, 1)] == reference
        for start in (1, 5, 10, 11):
            assert stream(loader(samples, workers, batch_size=size).epoch(1, start)) == reference[1][start:]


def test_a_zip_and_a_folder_show_the_same(textures: Path, tmp_path: Path) -> None:
    streams = [
        stream(loader(read_dataset(LAYOUTS[layout](textures, tmp_path)).train).epoch(0))
        for layout in ("folder", "zip", "tar")
    ]
    assert streams[0] == streams[1] == streams[2]


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_any_number_of_ranks_sees_the_same_batches(samples: Samples, sampling: Sampling) -> None:
    data = DataConfig(sampling=sampling)
    alone = list(loader(samples, data=data).epoch(1))
    for count in (2, 4):
        parts = [loader(samples, data=data, rank=rank, ranks=count).epoch(1) for rank in range(count)]
        for whole, *pieces in zip(alone, *parts, strict=True):
            assert {len(piece) for piece in pieces} == {16 // count}
            for field in ("indices", "labels", "images", "color_factors"):
                assert torch.equal(torch.cat([getattr(piece, field) for piece in pieces]), getattr(whole, field))


def test_a_batch_that_cannot_be_shared_out_is_refused(samples: Samples) -> None:
    with pytest.raises(
        ConfigError,
        match=r"must be a multiple of the 3 processes with two images for each or more, got 16",
    ):
        loader(samples, rank=0, ranks=3)


def test_balanced_batches_repeat_images_but_not_their_views(samples: Samples) -> None:
    """Class 2 keeps a single image, which comes some forty times, always another part of it."""
    rows = np.flatnonzero((samples.labels < 2) | (np.arange(180) == 179))
    few = Samples(samples.source, samples.rows[rows], samples.labels[rows], samples.classes)
    batches = list(loader(few, data=DataConfig(sampling="balanced")).epoch(0))
    labels, indices = (torch.cat([getattr(batch, field) for batch in batches]) for field in ("labels", "indices"))
    assert torch.bincount(labels).tolist() == pytest.approx([37, 37, 37], abs=4)  # 112 of 121 draws
    views = torch.cat([batch.images for batch in batches])[indices == 120]
    assert len(np.unique(views.flatten(1).numpy(), axis=0)) == len(views) > 30


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


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 45, 100])
def test_evaluation_counts_every_image_once(textures: Path, workers: int, batch_size: int) -> None:
    samples = read_dataset(textures).val
    batches = list(evaluation_batches(samples, SMALL, batch_size=batch_size, workers=workers))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(45))
    assert torch.cat([batch.labels for batch in batches]).tolist() == samples.labels.tolist()


@pytest.mark.parametrize("ranks", [1, 2, 4, 50])
def test_evaluation_counts_every_image_once_on_any_number_of_ranks(textures: Path, ranks: int) -> None:
    samples = read_dataset(textures).val
    seen = [
        index
        for rank in range(ranks)
        for batch in evaluation_batches(samples, SMALL, batch_size=8, workers=0, rank=rank, ranks=ranks)
        for index in batch.indices.tolist()
    ]
    assert sorted(seen) == list(range(45))


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
def test_the_first_damaged_image_stops_the_training_if_asked(damaged: Path, workers: int) -> None:
    samples = read_dataset(damaged).train
    strict = loader(samples, workers, batch_size=180, data=DataConfig(on_error="raise"))
    with pytest.raises(
        ImageError, match=r"train/brick/000\.jpg cannot be decoded.*--data.on_error skip leaves up to 1%"
    ):
        list(strict.epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_names_the_damaged_image(damaged: Path, workers: int) -> None:
    samples = read_dataset(damaged).val
    with pytest.raises(ImageError, match=r"val/grass/003\.jpg cannot be decoded.*an evaluation counts every image"):
        list(evaluation_batches(samples, SMALL, batch_size=8, workers=workers))
