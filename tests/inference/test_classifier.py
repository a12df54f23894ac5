"""Answers in Python: the same as an evaluation's, batch or single, in order."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from inceptionv4 import Classifier
from inceptionv4.data.crops import Crops, evaluation_views
from inceptionv4.data.decode import decode
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.data.transforms import evaluation_crop
from inceptionv4.errors import ImageError, UsageError
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.inference.images import NamedImage
from inceptionv4.spec import ModelSpec, Preprocessing
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
    with pytest.raises(ImageError, match=r"no image at .*gone\.jpg; give files"):
        classifier([tmp_path / "gone.jpg"])
    answers = list(classifier.predict([bad, good, bad]))
    assert [answer.error is None for answer in answers] == [False, True, False]
    assert answers[0].top == ()


def test_one_image_may_stand_by_itself(narrow_model: Path, textures: Path) -> None:
    classifier = Classifier.load(narrow_model)
    image = textures / "val/brick/000.jpg"
    expected = classifier([image])
    assert classifier(image) == classifier(str(image)) == expected
    assert classifier(NamedImage(str(image), image.read_bytes)) == expected


def test_what_is_asked_for_is_looked_at_before_anything_is_done(narrow_model: Path) -> None:
    classifier = Classifier.load(narrow_model)
    for top in (0, -1):
        with pytest.raises(UsageError, match=f"top must be 1 or more, got {top}"):
            classifier.predict(["a.jpg"], top=top)
    with pytest.raises(UsageError, match="tta must be one of flip, crops12, crops144, or None, got 'ten'"):
        classifier.predict(["a.jpg"], tta="ten")  # type: ignore[arg-type]


def test_answers_keep_their_order_while_threads_decode(narrow_model: Path, textures: Path) -> None:
    content = [file.read_bytes() for file in sorted((textures / "val").rglob("*.jpg"))]

    def slowly(number: int) -> bytes:
        time.sleep(0.01 * (number % 3 == 0))
        if number % 10 == 9:
            raise ImageError(f"{number} is gone")
        return content[number % len(content)]

    classifier = Classifier.load(narrow_model)
    images = [NamedImage(str(number), partial(slowly, number)) for number in range(60)]
    answers = list(classifier.predict(images))
    assert [answer.file for answer in answers] == [str(number) for number in range(60)]
    assert [answer.error for answer in answers] == [
        f"{number} is gone" if number % 10 == 9 else None for number in range(60)
    ]
    for number in range(45, 60):
        if number % 10 != 9 and number % len(content) % 10 != 9:
            assert answers[number].probability == pytest.approx(answers[number - 45].probability, abs=1e-5)


def test_images_are_asked_for_as_they_are_needed(narrow_model: Path, textures: Path) -> None:
    content = (textures / "val/brick/000.jpg").read_bytes()
    asked = 0

    def endless() -> Iterator[NamedImage]:
        nonlocal asked
        while True:
            asked += 1
            yield NamedImage(str(asked), lambda: content)

    classifier = Classifier.load(narrow_model)
    answers = classifier.predict(endless())
    assert [next(answers).file for _ in range(40)] == [str(number) for number in range(1, 41)]
    assert asked <= 40 + 4 * classifier.backend.batch_size
    answers.close()


def test_embeddings_are_the_networks_features_and_agree_with_its_answers(narrow_model: Path, textures: Path) -> None:
    files = sorted((textures / "val/grass").iterdir())[:5]
    classifier = Classifier.load(narrow_model)
    network, _ = load_model(narrow_model)
    for file, answer, plain in zip(files, classifier.predict(files, embed=True), classifier(files), strict=True):
        pixels = evaluation_crop(decode(file.read_bytes(), "a"), classifier.spec.preprocessing)
        floats = torch.from_numpy((pixels / 127.5 - 1).astype(np.float32)).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = network.embed(floats)[0].numpy()
        assert answer.embedding is not None
        assert answer.embedding.dtype == np.float32
        np.testing.assert_allclose(answer.embedding, expected, rtol=1e-3, atol=1e-4)
        assert answer.label == plain.label
        assert answer.probability == pytest.approx(plain.probability, abs=1e-5)
        assert plain.embedding is None


def test_an_exported_file_gives_no_features(narrow_spec: ModelSpec, textures: Path) -> None:
    class Exported(Backend):
        runtime, precision = "test", "fp32"

        def infer(self, images: torch.Tensor) -> torch.Tensor:
            raise AssertionError

        def describe(self) -> str:
            return "a file"

    classifier = Classifier(Exported(narrow_spec, {}))
    with pytest.raises(UsageError, match="a file gives logits alone; name the run or the checkpoint"):
        classifier.predict([textures], embed=True)


def reference_views(image: Image.Image, size: int, which: str) -> list[Image.Image]:
    """The crops as GoogLeNet's paper has them, by torchvision's functions, one after the other."""
    views = []
    for scale in (256, 288, 320, 352) if which == "crops144" else (256,):
        short = math.floor(size * scale / 224)
        resized = functional.resize(image, short, functional.InterpolationMode.BICUBIC)
        width, height = resized.size
        landscape = width > height
        squares = []
        for position in ("start", "middle", "end") if which == "crops144" else ("middle",):
            beyond = max(width, height) - short
            offset = {"start": 0, "middle": round(beyond / 2), "end": beyond}[position]
            top, left = (0, offset) if landscape else (offset, 0)
            squares.append(functional.crop(resized, top, left, short, short))
        for square in squares:
            crops = [*functional.five_crop(square, size)]
            crops.append(functional.resize(square, (size, size), functional.InterpolationMode.BICUBIC))
            for crop in crops:
                views += [crop, functional.hflip(crop)]
    return views


@pytest.mark.parametrize(("which", "count"), [("flip", 2), ("crops12", 12), ("crops144", 144)])
@pytest.mark.parametrize("shape", [(131, 100), (100, 140), (90, 90)])
def test_views_are_the_papers_and_their_probabilities_are_averaged(
    narrow_model: Path, textures: Path, which: Crops, count: int, shape: tuple[int, int], tmp_path: Path
) -> None:
    image = Image.open(textures / "val/gravel/002.jpg").resize(shape)
    image.save(tmp_path / "a.png")
    classifier = Classifier.load(narrow_model)
    if which == "flip":
        crop = functional.center_crop(functional.resize(image, 75, functional.InterpolationMode.BICUBIC), [75, 75])
        views = [crop, functional.hflip(crop)]
    else:
        views = reference_views(image, 75, which)
    ours = evaluation_views(image, classifier.spec.preprocessing, which)
    assert ours.shape == (count, 75, 75, 3)
    assert np.array_equal(ours, np.stack([np.asarray(view) for view in views]))

    network, _ = load_model(narrow_model)
    floats = torch.from_numpy(np.stack([np.asarray(view) for view in views]) / 127.5 - 1).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network.double()(floats).softmax(1).mean(0)
    (answer,) = classifier([tmp_path / "a.png"], tta=which)
    assert {guess.label: guess.probability for guess in answer.top} == pytest.approx(
        dict(zip(classifier.spec.classes, expected.tolist(), strict=True)), abs=1e-4
    )


def test_the_first_scale_is_that_of_the_usual_evaluation() -> None:
    preprocessing = Preprocessing()  # 299 px, crop 0.875
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8))
    centre = evaluation_views(image, preprocessing, "crops12")[8]
    expected = evaluation_crop(image, preprocessing)
    # The centre of the centre square; rounded twice, it may be a pixel beside the centre of the whole.
    shifts = [centre[:, 1:] - expected[:, :-1], centre - expected, centre[:, :-1] - expected[:, 1:]]
    assert any(not shift.any() for shift in shifts)


def test_a_mirror_changes_nothing_for_an_image_that_is_its_own(
    narrow_model: Path, textures: Path, tmp_path: Path
) -> None:
    photograph = np.asarray(Image.open(textures / "val/brick/001.jpg").resize((75, 75)))
    mirrored = photograph[:, ::-1]
    for name, pixels in (("own", np.maximum(photograph, mirrored)), ("one", photograph), ("other", mirrored)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    classifier = Classifier.load(narrow_model)
    own, one, other = (tmp_path / f"{name}.png" for name in ("own", "one", "other"))
    assert classifier([own], tta="flip")[0].probability == pytest.approx(classifier([own])[0].probability, abs=1e-6)
    either = [classifier([file], tta="flip")[0].probability for file in (one, other)]
    assert either[0] == pytest.approx(either[1], abs=1e-6)
    assert classifier([one])[0].probability != pytest.approx(classifier([other])[0].probability, abs=1e-5)


def test_several_views_work_for_embeddings_too(narrow_model: Path, textures: Path) -> None:
    file = textures / "val/grass/003.jpg"
    classifier = Classifier.load(narrow_model)
    (answer,) = classifier.predict([file], tta="crops12", embed=True)
    assert isinstance(classifier.backend, TorchBackend)
    views = evaluation_views(decode(file.read_bytes(), "a"), classifier.spec.preprocessing, "crops12")
    each = [classifier.backend.embed(torch.from_numpy(view.copy()).permute(2, 0, 1)[None])[0] for view in views]
    assert answer.embedding is not None
    np.testing.assert_allclose(answer.embedding, torch.stack(each).mean(0).numpy(), rtol=1e-3, atol=1e-4)
    assert answer.probability == pytest.approx(classifier([file], tta="crops12")[0].probability, abs=1e-5)
