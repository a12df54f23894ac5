"""Exported files: the description beside those that have no place for it, and the checksum that each carries.

The checksum is the SHA-256 of what a runtime computes with: all of the file but the description itself. It is verified
whenever a file is opened, so that damaged or exchanged weights are an error and not another answer.

    .onnx                 every field of the protobuf message but `metadata_props`, which holds the description
    .xml and .bin         the lines of the .xml but the one that holds the description, then the .bin
    .mindir, .air, .om    the whole file; the description lies beside it, as NAME.om.json
"""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import replace
from pathlib import Path

from inceptionv4.errors import CheckpointError
from inceptionv4.export_metadata import NOTE, ExportMetadata
from inceptionv4.runtime.protobuf import read_raw_fields

METADATA_PROPS = 14
"""The number of the field of ONNX's `ModelProto` that holds notes."""


def hash_content(path: Path) -> str:
    """The SHA-256, in hexadecimal, of what a runtime computes with, as listed above by the file's ending.

    Raises:
        OSError: the file, or the .bin of an .xml, cannot be read.
        ValueError: an .onnx is cut short or no protobuf message.
    """
    match path.suffix.lower():
        case ".onnx":
            return _hash_onnx(path)
        case ".xml":
            digest = hashlib.sha256()
            for line in path.read_bytes().splitlines(keepends=True):
                if not line.lstrip().startswith(f"<{NOTE} ".encode()):
                    digest.update(line)
            with path.with_suffix(".bin").open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
            return digest.hexdigest()
        case _:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_onnx(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        message = memoryview(content)
        try:
            for number, value, field in read_raw_fields(message):
                if number != METADATA_PROPS:
                    digest.update(field)
                field.release()
                if isinstance(value, memoryview):
                    value.release()
        finally:
            message.release()
    return digest.hexdigest()


def verify_content(path: Path, metadata: ExportMetadata) -> ExportMetadata:
    """Return `metadata` if the file at `path` is the one that it describes.

    Raises:
        CheckpointError: it is damaged, another file, or of a version that recorded no checksum.
    """
    if not metadata.content:
        raise CheckpointError(f"{path} was exported by a version that recorded no checksum; export the model again")
    try:
        found = hash_content(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read whole: {error}; copy it again, or export it again") from None
    if found != metadata.content:
        raise CheckpointError(
            f"{path} is damaged, or not the file that its description was written for: their SHA-256 differ; "
            "copy all files of the export again, or export the model again"
        )
    return metadata


def is_exported_onnx(path: Path) -> bool:
    """True if an ONNX file is one that this package exported, by the key of its description.

    Metadata follow the graph in the file, so that the search from the end is short; others are searched through.
    """
    key = b"\x0a" + bytes([len(NOTE)]) + NOTE.encode() + b"\x12"  # protobuf: field 1, length, text; field 2
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.rfind(key) >= 0


def sidecar(path: Path) -> Path:
    """Path of the metadata of a file that has no place for them: `model.om` -> `model.om.json`.

    With the whole name, so that a .om and a .mindir of one name do not share it.
    """
    return path.with_name(f"{path.name}.json")


def write_sidecar(path: Path, metadata: ExportMetadata) -> ExportMetadata:
    """Write the description of the file at `path` beside it, with the file's checksum, and return it.

    Raises:
        OSError: the file cannot be read, or its description cannot be written.
    """
    described = replace(metadata, content=hash_content(path))
    sidecar(path).write_text(described.to_json() + "\n", encoding="utf-8")
    return described


def read_sidecar(path: Path) -> ExportMetadata:
    """The description beside the file at `path`, which is the file that it describes.

    Raises:
        CheckpointError: there is no description, or it is damaged, or another file's.
    """
    try:
        text = sidecar(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} needs {sidecar(path).name} beside it, which says its classes and preprocessing: {error}; "
            "copy both, or export the model again"
        ) from None
    return verify_content(path, ExportMetadata.from_json(text, str(sidecar(path))))
