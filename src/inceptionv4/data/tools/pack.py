"""Tar shards from any layout: large files in an order of chance, which disks and networks read best.

    OUT/train-000000.tar ... val-000000.tar ...   `key.jpg` beside `key.cls`, as webdataset has them
    OUT/classes.txt                               the names of the classes, a line each
    OUT/pack.jsonl                                what is packed how, then a line for each finished shard

What is written depends on the data and the options alone, to the last byte. A shard appears whole, and its line after
it; so a packing that was killed goes on where its lines end.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from PIL import Image, JpegImagePlugin

from inceptionv4.class_names import write_class_names
from inceptionv4.data.decode import DAMAGE, decode
from inceptionv4.data.index import read_dataset
from inceptionv4.data.metadata import ORIENTATION, PNG, UPRIGHT, read_orientation
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.prefetch import prefetch_batches
from inceptionv4.data.samples import Dataset, Samples
from inceptionv4.errors import ImageError, RunError, UsageError
from inceptionv4.runtime.files import remove_half_written, write_text, write_whole
from inceptionv4.runtime.progress import Progress
from inceptionv4.strict_json import from_json, to_json

VERSION = 1
LEDGER = "pack.jsonl"
SHARD_BYTES = 256 * 2**20
TOGETHER = 32
"""Images that are prepared as one batch."""
ALIKE = 8.0
"""Grey levels by which 16 x 16 squares of an image that was made smaller may differ from its source's."""
QUALITY = 95
"""The JPEG quality of photographs that are made smaller: their new size loses more than this does."""
SIGNATURES = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}


@dataclass(frozen=True)
class Shard:
    """A finished shard: the part of its split's order that it holds, and what it is made of."""

    name: str
    first: int
    taken: int
    images: int
    size: int
    sha256: str
    shrunk: int = 0
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Packed:
    """What was written."""

    folder: str
    shards: int
    images: int
    size: int
    shrunk: int
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class _Member:
    """An image that is ready to be written."""

    key: str
    extension: str
    content: bytes
    label: int
    shrunk: bool

    @property
    def size(self) -> int:
        """Bytes in the archive, with the label's."""
        return sum(tarfile.BLOCKSIZE + _padded(size) for size in (len(self.content), len(str(self.label))))


def pack(
    location: str,
    output: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    short_side: int | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    options: ReadOptions = AS_FOUND,
) -> Packed:
    """Write the images at `location` to shards of at most `shard_bytes` in the folder `output`, and read them back.

    Train and held-out images are those that a training on `location` has. Bytes are copied as they are; with
    `short_side`, images whose shorter side is longer are made smaller, in the format that they have if it is JPEG or
    PNG. An image that cannot be read raises, or is left out and listed, as `on_error` says.

    Raises:
        UsageError: `output` holds something else, or was begun with other data or options.
        DataError: the data cannot be used, or an image cannot be read.
        RunError: the disk is full, or what was read back is not what was written.
    """
    dataset = read_dataset(location, val_fraction, options)
    if Path(location).is_dir() and output.resolve().is_relative_to(Path(location).resolve()):
        raise UsageError(f"{output} lies inside {location} and would become part of it; choose another folder")
    names = write_class_names(dataset.classes, location)
    plan = {
        "version": VERSION,
        "train": dataset.train.exact_fingerprint,
        "val": dataset.val.exact_fingerprint,
        "shard_bytes": shard_bytes,
        "short_side": short_side,
        "seed": seed,
        "on_error": on_error,
    }
    finished = _open_ledger(output, plan)
    write_text(output / "classes.txt", names.decode())
    parts = {"train": dataset.train, "val": dataset.val}
    with Progress("packing", total=len(dataset.train) + len(dataset.val)) as progress:
        progress.advance(sum(shard.taken for shard in finished))
        for split, samples in parts.items():
            own = [shard for shard in finished if shard.name.startswith(f"{split}-")]
            start = own[-1].first + own[-1].taken if own else 0
            order = np.random.default_rng(seed).permutation(len(samples))
            queue = _Queue(_members(samples, order, start, short_side, workers or os.cpu_count() or 1), start)
            for number in itertools.count(len(own)):
                if queue.next is None:
                    break
                shard = _write_shard(output / f"{split}-{number:06}.tar", queue, shard_bytes, on_error)
                _note(output / LEDGER, shard)
                finished.append(shard)
                progress.advance(shard.taken)
    packed = _read_back(output, finished, dataset)
    if short_side is not None:
        for ours, theirs in ((packed.train, dataset.train), (packed.val, dataset.val)):
            _compare(ours, theirs, short_side, seed, workers or os.cpu_count() or 1)
    return Packed(
        folder=str(output),
        shards=len(finished),
        images=sum(shard.images for shard in finished),
        size=sum(shard.size for shard in finished),
        shrunk=sum(shard.shrunk for shard in finished),
        skipped=tuple(reason for shard in finished for reason in shard.skipped),
    )


def _open_ledger(output: Path, plan: dict[str, Any]) -> list[Shard]:
    """The shards that are finished already; begins the ledger if there is none.

    Raises:
        UsageError: the folder holds something else, or another plan's shards.
        RunError: it cannot be written.
    """
    ledger = output / LEDGER
    try:
        output.mkdir(parents=True, exist_ok=True)
        others = [path.name for path in output.iterdir() if path != ledger and not path.name.startswith(f".{LEDGER}.")]
    except OSError as error:
        raise RunError(f"cannot write to {output}: {error.strerror}") from None
    if not ledger.exists():
        if others:
            raise UsageError(f"{output} holds other files, such as {sorted(others)[0]}; choose an empty folder")
        write_text(ledger, to_json(plan) + "\n")
    try:
        # A line without its end was being written when the packing was killed.
        lines = [line for line in ledger.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        begun, finished = dict(from_json(lines[0])), [Shard(**from_json(line)) for line in lines[1:]]
    except OSError as error:
        raise RunError(f"cannot read {ledger}: {error.strerror or error}") from None
    except (ValueError, TypeError, IndexError) as error:
        raise RunError(f"{ledger} is damaged ({error}); remove {output} and pack again") from None
    if different := [name for name, value in plan.items() if begun.get(name) != value]:
        raise UsageError(
            f"{output} was begun with other {' and '.join(different)}; "
            "give the same data and options to go on, or choose another folder"
        )
    write_text(ledger, b"".join(lines).decode())
    remove_half_written(output, LEDGER, "classes.txt", "train-*.tar", "val-*.tar")
    return finished


def _note(ledger: Path, shard: Shard) -> None:
    """Add a finished shard to the ledger, on the disk.

    Raises:
        RunError: the disk is full.
    """
    try:
        with ledger.open("a", encoding="utf-8") as file:
            file.write(to_json(asdict(shard)) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"cannot write {ledger}: {error.strerror or error}; free some space, and pack again") from None


def _members(
    samples: Samples, order: np.ndarray, start: int, short_side: int | None, workers: int
) -> Iterator[_Member | ImageError]:
    """The images from position `start` of the order on, ready to be written."""

    def read(position: int) -> bytes:
        return samples.read(int(order[position]))

    def prepare(position: int, content: bytes) -> _Member:
        index, shrunk = int(order[position]), False
        if short_side is not None:
            smaller = shrink(content, samples.describe(index), short_side)
            content, shrunk = smaller or content, smaller is not None
        path = Path(samples.path(index))
        known = next((name for head, name in SIGNATURES.items() if content.startswith(head)), None)
        if known is None:
            decode(content, samples.describe(index))  # a table may name any file, and shards are handed on
        # What an old tar header can hold: the shards are then the same for every reader.
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:60]
        extension = known or path.suffix.removeprefix(".").lower()
        return _Member(f"{position:08}-{stem}", extension, content, int(samples.labels[index]), shrunk)

    positions = range(start, len(order))
    batches = (positions[first : first + TOGETHER] for first in range(0, len(positions), TOGETHER))
    for _, items in prefetch_batches(batches, read, prepare, workers, samples.source.io_threads):
        yield from items


def shrink(content: bytes, name: str, short_side: int) -> bytes | None:
    """The image with its shorter side of `short_side` px; None if it is not longer than that.

    Its orientation tag is kept, and a profile of RGB colours; its other metadata are not.

    Raises:
        ImageError: it cannot be decoded.
    """
    stored = decode(content, name, exif_orientation=False)
    width, height = stored.size
    if min(width, height) <= short_side:
        return None
    scale = short_side / min(width, height)
    size = (max(round(width * scale), short_side), max(round(height * scale), short_side))
    is_png = content.startswith(PNG)
    exif = Image.Exif()
    if (orientation := read_orientation(content)) != UPRIGHT:
        exif[ORIENTATION] = orientation
    profile, subsampling = _profile_and_subsampling(content)
    options = {} if is_png else {"quality": QUALITY, "subsampling": subsampling}
    output = io.BytesIO()
    resized = stored.resize(size, Image.Resampling.LANCZOS)
    resized.save(output, "PNG" if is_png else "JPEG", exif=exif, icc_profile=profile, **options)
    return output.getvalue()


def _profile_and_subsampling(content: bytes) -> tuple[bytes | None, int]:
    """The colour profile of a picture whose pixels are RGB, and how coarse a JPEG's colours are, as Pillow counts."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            profile = opened.info.get("icc_profile")
            is_rgb = opened.mode in ("RGB", "RGBA") and profile is not None and profile[16:20] == b"RGB "
            subsampling = JpegImagePlugin.get_sampling(opened) if opened.format == "JPEG" else -1
            return profile if is_rgb else None, max(subsampling, 0)
    except DAMAGE:  # in what stands beside the pixels, which were decoded
        return None, 0


class _Queue:
    """Members in order; `next` is the one at `position`, None at the end."""

    def __init__(self, members: Iterator[_Member | ImageError], position: int) -> None:
        self._members, self.position = members, position
        self.next = next(members, None)

    def take(self) -> None:
        self.next, self.position = next(self._members, None), self.position + 1


def _write_shard(path: Path, queue: _Queue, shard_bytes: int, on_error: str) -> Shard:
    """Fill a shard from the queue, until it is full or the queue is empty."""
    first, images, shrunk, size = queue.position, 0, 0, 2 * tarfile.BLOCKSIZE
    skipped: list[str] = []
    digest = hashlib.sha256()

    def fill(temporary: Path) -> None:
        nonlocal images, shrunk, size
        with temporary.open("wb") as file, tarfile.open(fileobj=_Hashed(file, digest), mode="w") as archive:
            while (member := queue.next) is not None:
                if isinstance(member, ImageError):
                    if on_error == "raise":
                        raise ImageError(
                            f"{member}; repair it or remove it (`inceptionv4 data doctor` lists all such), "
                            "or leave it out with --on-error skip"
                        )
                    skipped.append(str(member))
                elif images and _record(size + member.size) > shard_bytes:
                    break
                else:
                    _add(archive, f"{member.key}.{member.extension}", member.content)
                    _add(archive, f"{member.key}.cls", str(member.label).encode())
                    images, shrunk, size = images + 1, shrunk + member.shrunk, size + member.size
                queue.take()

    write_whole(path, fill)
    taken = queue.position - first
    return Shard(path.name, first, taken, images, _record(size), digest.hexdigest(), shrunk, skipped)


class _Hashed(io.RawIOBase):
    """Writes to a file, and keeps the checksum of what should be in it."""

    def __init__(self, file: IO[bytes], digest: Any) -> None:
        self.file, self.digest = file, digest

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self.file.write(content)

    def tell(self) -> int:
        return self.file.tell()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _record(size: int) -> int:
    """The length of an archive: tar fills it up to whole records."""
    return -(-size // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _read_back(output: Path, shards: list[Shard], dataset: Dataset) -> Dataset:
    """Compare what lies on the disk with what was to be written, and return what is read from there.

    Raises:
        RunError: they differ.
    """
    with Progress("verifying", total=sum(shard.images for shard in shards)) as progress:
        for shard in shards:
            try:
                with (output / shard.name).open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise RunError(f"cannot read {output / shard.name} back: {error.strerror}") from None
            if found != shard.sha256:
                raise RunError(
                    f"{output / shard.name} is not what was written: its checksum differs; the disk may be failing; "
                    f"remove {output} and pack again"
                )
            progress.advance(shard.images)
    packed = read_dataset(output)
    for name, ours, theirs in (("train", packed.train, dataset.train), ("val", packed.val, dataset.val)):
        images = sum(shard.images for shard in shards if shard.name.startswith(f"{name}-"))
        counts = [np.bincount(samples.labels, minlength=len(dataset.classes)) for samples in (ours, theirs)]
        if len(ours) != images or (counts[0] > counts[1]).any() or packed.classes != dataset.classes:
            raise RunError(f"{output} reads as other images than were written; remove it and pack again")
    return packed


def _compare(packed: Samples, source: Samples, short_side: int, seed: int, workers: int) -> None:
    """See that each image that was made smaller shows what a loader shows of its source: of the size that it is to
    have, and alike in 16 x 16 squares to within `ALIKE` grey levels on average.

    Raises:
        RunError: one shows something else.
    """
    order = np.random.default_rng(seed).permutation(len(source))
    positions = [int(Path(packed.path(row)).name.partition("-")[0]) for row in range(len(packed))]

    def read(row: int) -> bytes:
        return packed.read(row)

    def difference(row: int, content: bytes) -> float:
        original = source.read(int(order[positions[row]]))
        if content == original:
            return 0.0
        one, other = decode(content, packed.describe(row)), decode(original, packed.describe(row))
        scale = short_side / min(other.size)
        if one.size != tuple(max(round(side * scale), short_side) for side in other.size):
            return 255.0
        squares = (np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float64) for image in (one, other))
        return float(np.abs(np.subtract(*squares)).mean())

    batches = (range(start, min(start + TOGETHER, len(packed))) for start in range(0, len(packed), TOGETHER))
    with Progress("comparing", total=len(packed)) as progress:
        for batch, differences in prefetch_batches(batches, read, difference, workers):
            for row, found in zip(batch, differences, strict=True):
                if isinstance(found, ImageError) or found > ALIKE:
                    raise RunError(f"{packed.describe(row)} shows something else than its source; pack again")
            progress.advance(len(batch))
