"""ImageNet-1k as it is distributed: `ILSVRC2012_img_train.tar`, `ILSVRC2012_img_val.tar` and the development kit.

The training archive holds an archive a class, named by its wnid. The validation archive holds images without labels;
these stand in the kit, as numbers that are NOT in the order of the wnids: they are mapped through the kit's own list.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inceptionv4.data.formats.source import RangeSource
from inceptionv4.data.formats.tar import list_members
from inceptionv4.data.layout import is_image, is_sidecar
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.table import TRAIN, VAL, StringArray, Table, narrow
from inceptionv4.errors import DataError, UsageError

ARCHIVES = TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KITS = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12.tar", "ILSVRC2012_devkit_t12")
LIST, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
"""Files of the kit: the classes and their numbers, and the number of each validation image."""


class ImageNetSource(RangeSource):
    """Images at their offsets in the two archives; classes are wnids, sorted."""

    layout_name = "imagenet"

    @staticmethod
    def find(place: Path) -> list[Path]:
        """The archives in a folder, or the one that `place` is, and what there is of the kit if the validation images
        are among them; none if it is no ImageNet.
        """
        archives = [place / name for name in ARCHIVES] if place.is_dir() else [place]
        files = [archive for archive in archives if archive.name in ARCHIVES and archive.is_file()]
        if files and files[-1].name == VAL_TAR:
            for kit in (files[-1].parent / name for name in KITS):
                files += [kit] if kit.is_file() else sorted(path for name in (LIST, TRUTH) for path in kit.rglob(name))
        return files

    @staticmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """Read the members of the archives.

        Raises:
            DataError: an archive is damaged, or the kit is missing where validation images need it.
            UsageError: scipy, which reads the kit, is not installed.
        """
        archives = [path for path in files if path.name in ARCHIVES]
        of_archives = [
            list(_train_images(archive)) if archive.name == TRAIN_TAR else [_val_images(archive, files)]
            for archive in archives
        ]
        counts = [sum(len(images.names) for images in found) for found in of_archives]
        if not sum(counts):
            raise DataError(f"the ImageNet archives in {files[0].parent} hold no images")
        everything = [images for found in of_archives for images in found]
        classes = tuple(sorted({wnid for images in everything for wnid in images.wnids}))
        numbers = {wnid: number for number, wnid in enumerate(classes)}
        labels = (numbers[wnid] for images in everything for wnid in images.wnids)
        splits = np.array([TRAIN if archive.name == TRAIN_TAR else VAL for archive in archives], np.int8)
        return Table(
            containers=tuple(map(str, archives)),
            container=np.repeat(np.arange(len(archives), dtype=np.int32), counts),
            names=StringArray.join([images.names for images in everything]),
            labels=np.fromiter(labels, np.int32, sum(counts)),
            splits=np.repeat(splits, counts),
            classes=classes,
            layout="ImageNet's archives",
            ignored=sum(images.ignored for images in everything),
            place={
                "offset": np.concatenate([images.offsets for images in everything]),
                "size": narrow(np.concatenate([images.sizes for images in everything])),
            },
        )


@dataclass(frozen=True)
class Images:
    """Images of one archive: their wnids and names, and int64 arrays of offsets and sizes.

    Python's object for a member takes a kilobyte, and there are 1.28 million: they are forgotten archive by archive.
    """

    wnids: Sequence[str]
    names: StringArray
    offsets: np.ndarray
    sizes: np.ndarray
    ignored: int
    """Other members, such as macOS's `._ILSVRC2012_val_00000001.JPEG`."""

    @classmethod
    def of(cls, members: Sequence[tarfile.TarInfo], wnids: Sequence[str], ignored: int) -> Images:
        return cls(
            wnids,
            StringArray.of(member.name for member in members),
            np.array([member.offset_data for member in members], np.int64),
            np.array([member.size for member in members], np.int64),
            ignored,
        )


def _train_images(archive: Path) -> Iterator[Images]:
    """The images of each of the archives inside the archive, with absolute offsets."""
    with archive.open("rb") as file:
        for inner in list_members(archive):
            if is_sidecar(inner.name) or not inner.name.endswith(".tar"):
                yield Images.of([], [], ignored=1)
                continue
            file.seek(inner.offset_data)
            try:
                with tarfile.open(fileobj=file, mode="r:") as images:
                    members = images.getmembers()
            except tarfile.TarError as error:
                raise DataError(f"{archive}: {inner.name} is damaged ({error}); copy it again") from None
            pictures = [member for member in members if member.isreg() and _is_picture(member.name)]
            yield Images.of(pictures, [Path(inner.name).stem] * len(pictures), len(members) - len(pictures))


def _val_images(archive: Path, files: Sequence[Path]) -> Images:
    members, ignored = list[tarfile.TarInfo](), 0
    for member in list_members(archive):
        if _is_picture(member.name):
            members.append(member)
        else:
            ignored += 1
    members.sort(key=lambda member: member.name)
    wnids = _ground_truth(files, archive.parent)
    if len(wnids) != len(members):
        raise DataError(f"{archive} holds {len(members)} images, but the development kit labels {len(wnids)}")
    return Images.of(members, wnids, ignored)


def _is_picture(path: str) -> bool:
    return is_image(path.rpartition("/")[2]) and not is_sidecar(path)


def _ground_truth(files: Sequence[Path], folder: Path) -> list[str]:
    """The wnid of each validation image, in the order of their names."""
    try:
        from scipy.io import loadmat  # an extra
    except ImportError:
        raise UsageError("ImageNet's development kit is read with scipy: pip install 'inceptionv4[imagenet]'") from None
    content = _kit_file(files, LIST, folder)
    try:
        synsets = loadmat(io.BytesIO(content), squeeze_me=True, struct_as_record=False)["synsets"]
        wnid_of = {int(synset.ILSVRC2012_ID): str(synset.WNID) for synset in synsets if int(synset.num_children) == 0}
    except Exception as error:  # noqa: BLE001 - a damaged file of MATLAB's raises anything
        raise DataError(f"{LIST} of the development kit in {folder} is damaged ({error}); copy it again") from None
    numbers = _kit_file(files, TRUTH, folder).split()
    try:
        return [wnid_of[int(number)] for number in numbers]
    except (KeyError, ValueError) as error:
        raise DataError(f"the development kit in {folder} names a class that its list lacks: {error}") from None


def _kit_file(files: Sequence[Path], name: str, folder: Path) -> bytes:
    for path in files:
        if path.name == name:
            return path.read_bytes()
        if path.name in KITS:
            try:
                with tarfile.open(path) as archive:
                    for member in archive:
                        if member.isreg() and Path(member.name).name == name:
                            content = archive.extractfile(member)
                            if content is not None:
                                return content.read()
            except (tarfile.TarError, OSError, EOFError) as error:
                raise DataError(f"{path} is damaged ({error}); copy it again") from None
    raise DataError(f"no {name} in {folder}: put {KITS[0]} beside {VAL_TAR}, which has no labels of its own")
