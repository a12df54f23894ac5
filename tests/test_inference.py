"""Answers in Python: the same as an evaluation's, batch or single, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inceptionv4 import Classifier
from inceptionv4.data.decode import decode
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.data.transforms import evaluation_crop
from inceptionv4.errors import ImageError, UsageError
from inceptionv4.inference.classifier import find_images
from inceptionv4.weights.load import load_model


def test_prediction_and_evaluation_prepare_identical_pixels(narrow_model: Path, textures: Path) -> None:
    samples = read_dataset(textures).val
    preprocessing = Classifier.load(narrow_model).spec.preprocessing
    batch = next(evaluation_batches(samples, preprocessing, batch_size=45, workers=0))
    for index in range(45):
        pixels = evaluation_crop(decode(samples.read(index), "a"), preprocessing)
        assert np.array_equal(batch.images[index].permute(1, 2, 0).numpy(), pixels)


def test_answers_do_not_depend_on_their_batch(narrow_model: Path, textures: Path) -> None:
    classifier = Classifier.load(narrow_model)
    files = sorted((textures / "val").rglob("*.jpg"))
    together = classifier(files)
    assert [prediction.file for prediction in together] == [str(file) for file in files]
    for file, prediction in zip(files, together, strict=True):
        alone = classifier([file])[0]
        assert alone.label == prediction.label
        assert alone.probability == pytest.approx(prediction.probability, abs=1e-5)


def test_probabilities_are_the_networks_softmax(narrow_model: Path) -> None:
    classifier = Classifier.load(narrow_model, device="cpu")
    pixels = torch.randint(0, 256, (3, 3, 75, 75), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    floats = (pixels.double() / 255 - 0.5) / 0.5
    network, _ = load_model(narrow_model)
    with torch.no_grad():
        expected = network.double()(floats).softmax(1)
    torch.testing.assert_close(classifier.probabilities(pixels).double(), expected, atol=1e-5, rtol=1e-4)


def test_bad_files_raise_or_are_reported(narrow_model: Path, textures: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(narrow_model)
    good, bad = textures / "val/brick/000.jpg", tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    with pytest.raises(ImageError, match="bad.jpg is no image"):
        classifier([good, bad])
    with pytest.raises(ImageError, match=r"gone\.jpg cannot be read: No such file"):
        classifier([tmp_path / "gone.jpg"])
    answers = list(classifier.predict([bad, good, bad]))
    assert [answer.error is None for answer in answers] == [False, True, False]
    assert answers[0].top == ()


def test_images_are_found_in_files_and_folders(textures: Path, tmp_path: Path) -> None:
    single = textures / "val/grass/000.jpg"
    assert find_images([single, textures / "val/brick"]) == [single, *sorted((textures / "val/brick").iterdir())]
    with pytest.raises(UsageError, match="no images in"):
        find_images([tmp_path])
    with pytest.raises(UsageError, match="no image at"):
        find_images([tmp_path / "a.jpg"])
