"""Files as they are found in the wild: whichever way they are read, the same picture or the same refusal."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import EpsImagePlugin, Image
from scans import grey_jpeg

from inceptionv4.config import AugmentConfig, Config, DataConfig
from inceptionv4.data.augment import sample_generator, training_view
from inceptionv4.data.decode import FORMATS, decode
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import TrainingLoader, evaluation_batches
from inceptionv4.data.samples import Samples
from inceptionv4.errors import DataError, ImageError
from inceptionv4.inference.classifier import Classifier
from inceptionv4.spec import Preprocessing

STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright picture is stored under each EXIF orientation."""
WHOLE = AugmentConfig(area=(1, 1), aspect=(1.5, 1.5), flip=0)
"""A view of all of a 90 x 60 px picture."""


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def zoo() -> list[tuple[str, bytes]]:
    """Eight orientations of seven modes: the same photograph, 90 x 60 px when upright."""
    photograph = Image.fromarray(skimage.data.coffee()).resize((90, 60))
    files = []
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16"):
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257)
        else:
            picture = photograph.convert(mode)
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            turn = STORED[orientation]
            stored = picture if turn is None else picture.transpose(turn)
            format = "TIFF" if mode == "CMYK" else "PNG"
            files.append((f"{mode.replace(';', '')}-{orientation}", encode(stored, format, exif=exif)))
    return files


def test_training_evaluation_and_prediction_see_every_file_of_the_zoo_alike(tmp_path: Path, narrow_model: Path) -> None:
    for name, content in zoo():
        for label in ("a", "b"):
            path = tmp_path / "val" / label / f"{name}.jpg"  # the name lies
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            other = tmp_path / "train" / label / "1.png"
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_bytes(content)
    samples = read_dataset(tmp_path).val
    classifier = Classifier.load(narrow_model)
    preprocessing = classifier.spec.preprocessing
    pictures = {}
    for batch in evaluation_batches(samples, preprocessing, batch_size=1, workers=0):
        index = int(batch.indices[0])
        name = Path(samples.path(index)).stem
        pictures.setdefault(name, batch.images[0].numpy())
        alone = classifier.probabilities(batch.images)
        guess = next(iter(classifier.predict([tmp_path / samples.path(index)], top=1)))
        assert guess.probability == pytest.approx(float(alone.max()), abs=1e-6)
        content = samples.read(index)
        view = training_view(content, name, preprocessing, WHOLE, sample_generator(0, 0, 0))
        whole = np.asarray(decode(content, name).resize((75, 75), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        assert np.abs(view.pixels.astype(int) - whole).mean() < 0.25
    assert len(pictures) == 56
    for name, picture in pictures.items():
        mode, orientation = name.split("-")
        if orientation != "1":
            difference = np.abs(picture.astype(int) - pictures[f"{mode}-1"])
            assert difference.mean() < 0.5, name


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_training_goes_on_past_truncated_files_and_counts_them(tmp_path: Path, workers: int) -> None:
    """Sixty of 6,060: twenty offsets in each of three formats. The good files are links to a few."""
    picture = Image.fromarray(skimage.data.chelsea()).resize((40, 40))
    lines = []
    for format in ("JPEG", "PNG", "WEBP"):
        content = encode(picture, format)
        (tmp_path / f"good.{format}").write_bytes(content)
        for part in range(20):
            (tmp_path / f"{part}.{format}").write_bytes(content[: len(content) * part // 20])
            lines.append(f"{part}.{format},cat,train")
        for label, number in itertools.product(("cat", "dog"), range(1000)):
            (tmp_path / f"{label}{number}.{format}").hardlink_to(tmp_path / f"good.{format}")
            lines.append(f"{label}{number}.{format},{label},train")
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,label,split", *lines, "good.PNG,cat,val"]))
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in tmp_path.iterdir()}
    samples = read_dataset(tmp_path).train
    config = Config(image=Preprocessing(size=75), augment=AugmentConfig(area=(0.5, 1)))
    loader = TrainingLoader(samples, config, workers=workers)
    shown = sum(len(batch) for epoch in (0, 1) for batch in loader.epoch(epoch))
    assert len(loader.bad) == 60
    assert {Path(samples.path(index)).stem for index in loader.bad} == set(map(str, range(20)))
    assert 2 * (len(loader) * 32 - 60) <= shown < 2 * len(samples)

    more = tmp_path / "labels.csv"
    for number in range(2):
        (tmp_path / f"more{number}.JPEG").write_bytes(b"")
    more.write_text(more.read_text() + "\nmore0.JPEG,dog,train\nmore1.JPEG,dog,train")
    spoilt = TrainingLoader(read_dataset(tmp_path).train, config, workers=workers)
    everything = itertools.chain.from_iterable(map(spoilt.epoch, range(3)))
    with pytest.raises(DataError, match=r"of 6062 training images cannot be decoded, more than 1%; .*data doctor"):
        list(everything)
    before.pop(more)
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in before} == before


def test_truncated_files_are_refused_in_training_as_in_evaluation() -> None:
    for format, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})):
        content = encode(Image.fromarray(skimage.data.chelsea()), format, **options)
        for part in range(20):
            cut = content[: len(content) * part // 20]
            with pytest.raises(ImageError) as evaluated:
                decode(cut, "it")
            with pytest.raises(ImageError) as trained:
                training_view(cut, "it", Preprocessing(), AugmentConfig(), sample_generator(0, 0, 0))
            assert str(trained.value) == str(evaluated.value)


def test_damaged_photographs_never_crash_the_fast_decoder() -> None:
    """Bytes changed anywhere: a picture, or an error of ours; the same decision as Pillow's."""
    exif = Image.Exif()
    exif[0x0112] = 6
    generator = np.random.default_rng(0)
    whole = encode(Image.fromarray(skimage.data.coffee()), "JPEG", exif=exif)
    for trial in range(300):
        content = bytearray(whole)
        # Half of the damage in the headers, where it does most.
        reach = 800 if trial % 2 else len(content)
        for place in generator.integers(2, reach, int(generator.integers(1, 8))):
            content[place] = generator.integers(256)
        try:
            expected = decode(bytes(content), "it").size
        except ImageError:
            expected = None
        try:
            view = training_view(bytes(content), "it", Preprocessing(size=75), WHOLE, sample_generator(0, 0, trial))
        except ImageError:
            assert expected is None
        else:
            assert expected is not None
            assert view.pixels.shape == (3, 75, 75)


def bombs() -> dict[str, bytes]:
    """Headers of 20,000 x 20,000 px, with next to nothing behind them; and a large picture, again and again."""
    side = 20_000

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(b"\0" * side * 3)) + chunk(b"IEND", b"")
    jpeg = bytearray(encode(Image.new("RGB", (16, 16)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    webp = b"VP8L" + struct.pack("<IBI", 1004, 0x2F, (2**14 - 1) * (1 + 2**14)) + bytes(999)  # its largest: 2^28 pixels
    tags = ((256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, side), (279, side**2))
    tiff = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return {
        "PNG": png,
        "JPEG": bytes(jpeg),
        "scans": grey_jpeg(11_000, 4000),
        "GIF": b"GIF89a"
        + struct.pack("<HHBBB", side, side, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, side, side, 0)
        + b"\x02\x02\x4c\x01\x00;",
        "BMP": b"BM"
        + struct.pack("<IHHI", 54 + 64, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(64),
        "WEBP": b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp,
        "TIFF": b"II*\0" + struct.pack("<IH", 8, len(tags)) + tiff + bytes(4),
        "PPM": b"P6 20000 20000 255\n" + bytes(100),
        "ICO": struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(png), 22) + png,
    }


def test_bombs_are_refused_within_a_second_and_without_the_memory(tmp_path: Path) -> None:
    """All in one process, each twice: as evaluation and as training reads it."""
    code = (
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "from inceptionv4.config import AugmentConfig\n"
        "from inceptionv4.data.augment import sample_generator, training_view\n"
        "from inceptionv4.data.decode import decode\n"
        "from inceptionv4.errors import ImageError\n"
        "from inceptionv4.runtime.memory import peak_process_memory\n"
        "from inceptionv4.spec import Preprocessing\n"
        "before = peak_process_memory()\n"
        "for file in sys.argv[1:]:\n"
        "    content, said, start = Path(file).read_bytes(), [], time.perf_counter()\n"
        "    for read in (lambda: decode(content, 'it'), lambda: training_view("
        "content, 'it', Preprocessing(), AugmentConfig(), sample_generator(0, 0, 0))):\n"
        "        try: read()\n"
        "        except ImageError as error: said.append(str(error))\n"
        "    seconds, peak = time.perf_counter() - start, peak_process_memory()\n"
        "    print(json.dumps([said, seconds, (peak - before) / 2**20, peak / 2**20]))\n"
    )
    files = {format: tmp_path / format for format in bombs()}
    for format, content in bombs().items():
        files[format].write_bytes(content)
    command = [sys.executable, "-c", code, *map(str, files.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for format, line in zip(files, done.stdout.splitlines(), strict=True):
        (first, second), seconds, more, peak = json.loads(line)
        print(f"{format}: {1000 * seconds:.0f} ms, {more:.1f} MiB more, {peak:.0f} MiB in all")
        assert first == second, format
        assert ("is no image" if format == "ICO" else "the limit is") in first, (format, first)
        assert seconds < 1, format
        assert more < 100, format


def test_formats_beyond_the_list_are_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound pictures in all formats that Pillow reads and writes, and the mark of one that starts Ghostscript."""
    Image.init()
    refused = []
    for format in sorted(set(Image.OPEN) & set(Image.SAVE) - set(FORMATS)):
        for mode in ("RGB", "P", "1"):
            try:
                content = encode(Image.new(mode, (64, 64)), format)
                Image.open(io.BytesIO(content)).load()
            except (OSError, ValueError, KeyError, NotImplementedError):
                continue
            with pytest.raises(ImageError, match="is no image: its content is none of JPEG, PNG"):
                decode(content, "it")
            refused.append(format)
            break
    print(len(refused), *refused)
    assert len(refused) >= 10
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it was started"))
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    with Image.open(io.BytesIO(drawing)) as image, pytest.raises(pytest.fail.Exception, match="it was started"):
        image.load()  # as Pillow does by itself
    with pytest.raises(ImageError, match="is no image"):
        decode(drawing, "it")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_names_the_truncated_file_wherever_it_ends(tmp_path: Path, workers: int) -> None:
    """Twenty offsets in each of three formats, each file between two good ones."""
    picture = Image.fromarray(skimage.data.chelsea()).resize((40, 40))
    for name in ("good", "a", "b"):
        (tmp_path / f"{name}.png").write_bytes(encode(picture, "PNG"))
    for format in ("JPEG", "PNG", "WEBP"):
        content = encode(picture, format)
        for part in range(20):
            (tmp_path / f"{part}.{format}").write_bytes(content[: len(content) * part // 20])
    cut = [path.name for path in sorted(tmp_path.iterdir()) if path.suffix != ".png"]
    lines = [
        "a.png,a,train",
        "b.png,b,train",
        *(f"{name},{'ab'[row % 2]},val" for row, name in enumerate(["good.png", *cut])),
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,label,split", *lines]))
    samples = read_dataset(tmp_path).val
    rows = {samples.path(number): number for number in range(len(samples))}
    assert len(cut) == 60
    for name in cut:
        three = [rows["good.png"], rows[name], rows["good.png"]]
        some = Samples(samples.source, samples.rows[three], samples.labels[three], samples.classes)
        with pytest.raises(ImageError, match=rf"/{name} .*; an evaluation counts every image"):
            list(evaluation_batches(some, Preprocessing(size=75), batch_size=2, workers=workers))


def test_links_that_go_round_are_followed_once(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "data" / label / "1.png")
    (tmp_path / "data/a/up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data/b/self").symlink_to("self")
    (tmp_path / "data/b/gone.png").symlink_to("nowhere.png")
    samples = read_dataset(tmp_path / "data").all()
    assert sorted(os.path.normpath(samples.path(index)) for index in range(len(samples))) == ["a/1.png", "b/1.png"]


def test_the_first_bad_file_can_stop_a_training(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(3):
            Image.new("RGB", (9, 9)).save(tmp_path / label / f"{number}.png")
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"")
    config = Config(image=Preprocessing(size=75), data=DataConfig(on_error="raise"))
    with pytest.raises(ImageError, match=r"\.png is empty; --data.on_error skip"):
        list(TrainingLoader(read_dataset(tmp_path).train, config, workers=2).epoch(0))
