"""One data set in every layout: the textures' photographs, and CIFAR's records."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import scipy.io
from pyarrow import parquet


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def jpegs(folder: Path, split: str) -> list[tuple[str, str, bytes]]:
    """Class, file name and bytes of the textures' images."""
    return [(path.parent.name, path.name, path.read_bytes()) for path in sorted((folder / split).rglob("*.jpg"))]


def write_shards(textures: Path, folder: Path, split: str, count: int) -> None:
    folder.mkdir(exist_ok=True)
    names = sorted(path.name for path in (textures / split).iterdir())
    samples = jpegs(textures, split)
    for shard in range(count):
        with tarfile.open(folder / f"{split}-{shard:04}.tar", "w") as archive:
            for number, (name, _, content) in enumerate(samples[shard::count]):
                add(archive, f"{shard}-{number}.cls", str(names.index(name)).encode())
                add(archive, f"{shard}-{number}.jpg", content)


def make_cifar(folder: Path, binary: bool) -> np.ndarray:
    """Twenty records a batch of known pixels, in the form of the authors."""
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 3, 32, 32), dtype=np.uint8)
    for number, batch in enumerate(images):
        name = f"data_batch_{number + 1}" if number < 5 else "test_batch"
        labels = [(record + number) % 10 for record in range(20)]
        if binary:
            records = [bytes([label]) + image.tobytes() for label, image in zip(labels, batch, strict=True)]
            (folder / f"{name}.bin").write_bytes(b"".join(records))
        else:
            # As Python 2 wrote them: string keys, protocol 2.
            values = {b"labels": labels, b"data": batch.reshape(20, -1)}
            (folder / name).write_bytes(pickle.dumps(values, protocol=4))
    return images


WNIDS = {"brick": "n03", "grass": "n01", "gravel": "n02"}


def write_imagenet(textures: Path, folder: Path) -> Path:
    """ImageNet's archives. The kit numbers its classes otherwise than by sorted wnid, as the real one does."""
    numbers = {"brick": 2, "grass": 3, "gravel": 1}
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for name, wnid in WNIDS.items():
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as inner:
                for other, file, image in jpegs(textures, "train"):
                    if other == name:
                        add(inner, f"{wnid}_{Path(file).stem}.JPEG", image)
            add(outer, f"{wnid}.tar", content.getvalue())
    validation = jpegs(textures, "val")[::-1]
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as archive:
        for number, (_, _, image) in reversed(list(enumerate(validation, start=1))):
            add(archive, f"ILSVRC2012_val_{number:08}.JPEG", image)
    dtype = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    synsets = [(numbers[name], wnid, 0) for name, wnid in WNIDS.items()] + [(4, "n99", 3)]
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": np.array(synsets, dtype=dtype)})
    truth = "\n".join(str(numbers[name]) for name, _, _ in validation)
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as kit:
        add(kit, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        add(kit, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode())
    return folder


def write_csv(folder: Path, textures: Path, columns: list[str], name: str = "labels.csv") -> Path:
    with (folder / name).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for split in ("train", "val"):
            for label, image, content in jpegs(textures, split):
                path = folder / "images" / f"{split}-{label}-{image}"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
                row = {"file_name": f"images/{path.name}", "label": label, "split": split, "note": "x, y"}
                table.writerow([row[column] for column in columns])
    return folder / name


def write_parquet(textures: Path, folder: Path) -> Path:
    """Parquet files as Hugging Face writes them."""
    names = ["brick", "grass", "gravel"]
    (folder / "data").mkdir()
    for split, file in (("train", "train-00000-of-00001"), ("val", "validation-00000-of-00001")):
        samples = jpegs(textures, split)
        images = [{"bytes": content, "path": name} for _, name, content in samples]
        labels = [names.index(label) for label, _, _ in samples]
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = pyarrow.table({"image": images, "label": labels})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        parquet.write_table(table, folder / "data" / f"{file}.parquet", row_group_size=16)
    return folder


def write_zip(textures: Path, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "textures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, path in enumerate(sorted(textures.rglob("*.jpg"))):
            method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2]
            archive.write(path, path.relative_to(textures), method)
    return folder / "textures.zip"


def write_tar(textures: Path, folder: Path) -> Path:
    with tarfile.open(folder / "textures.tar", "w") as archive:
        archive.add(textures, "textures")
    return folder / "textures.tar"


def write_shard_folder(textures: Path, folder: Path) -> Path:
    write_shards(textures, folder, "train", 3)
    write_shards(textures, folder, "val", 2)
    (folder / "classes.txt").write_text("brick\ngrass\ngravel\n")
    return folder


def write_cifar(textures: Path, folder: Path) -> Path:
    make_cifar(folder / "cifar", binary=False)
    return folder / "cifar"


LAYOUTS: dict[str, Callable[[Path, Path], Path]] = {
    "folder": lambda textures, folder: textures,
    "zip": write_zip,
    "tar": write_tar,
    "shards": write_shard_folder,
    "csv": lambda textures, folder: write_csv(folder, textures, ["file_name", "label", "split"]),
    "parquet": write_parquet,
    "imagenet": write_imagenet,
    "cifar": write_cifar,
}
"""From the textures' folder and an empty one to a location in each layout; only CIFAR's holds other images."""
