"""What a parquet file says of its columns: which is the image, which the class, and the names of the classes.

The class is in the column that the metadata call a ClassLabel, or that is called so (`sources.columns`), whatever its
type. Metadata are those of Hugging Face's data sets, JSON under the key `huggingface`. A column of another name is read
as the split only if its first cells have a split's word, or are few texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inceptionv4.class_names import class_name
from inceptionv4.data.formats.columns import FEW, IMAGES, SPLITS, Columns, choose_columns
from inceptionv4.data.options import ReadOptions
from inceptionv4.data.split_names import has_word, split_word
from inceptionv4.errors import DataError, UsageError
from inceptionv4.strict_json import from_json

FIRST_CELLS = 64
"""The number of cells that tell whether a column may be the split."""


def open_parquet(path: Path) -> Any:
    """The file, of which only the footer is read.

    Raises:
        DataError: it is no complete parquet file.
        UsageError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet  # an extra
    except ImportError:
        raise UsageError(
            f"{path} is read with pyarrow: pip install 'inceptionv4[parquet]'; or say --data.layout folder to read "
            "the folders beside it"
        ) from None
    with undamaged(path):
        return parquet.ParquetFile(path)


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Raises:
    DataError: what is read inside of the `with` is no sound parquet file.
    """
    try:
        yield
    except damages() as error:
        raise DataError(f"{path} is no complete parquet file ({_brief(error)}); copy it again") from None


def damages() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises."""
    from pyarrow import ArrowException

    return ArrowException, OSError, ValueError  # of text that is not UTF-8, too


def _brief(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def image_columns(file: Any) -> list[str]:
    """The columns that may hold images: bytes, or a struct of bytes and a path."""
    from pyarrow import types

    def holds_images(kind: Any) -> bool:
        if types.is_struct(kind):
            return "bytes" in {part.name for part in kind}
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    return [field.name for field in file.schema_arrow if holds_images(field.type)]


def holds_images(path: Path) -> bool:
    """True if a file has a column of images, or is damaged and may have one.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        return bool(image_columns(open_parquet(path)))
    except DataError:
        return True


@dataclass(frozen=True)
class FileColumns:
    """The columns that are read of one file, and of each that has numbers for names the names."""

    columns: Columns
    names: Mapping[str, tuple[str, ...]]


def read_columns(file: Any, path: Path, options: ReadOptions) -> FileColumns:
    """The columns that are read of a file.

    Raises:
        DataError: a column is missing, or several may be meant; or the metadata are damaged.
    """
    schema = file.schema_arrow
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"{path} has two columns of one name: {', '.join(schema.names)}; write it with others")
    images = image_columns(file)
    if not images:
        raise DataError(f"{path} has the columns {', '.join(schema.names)}; expected an image and a label")
    names = _class_labels(schema, path)
    columns = choose_columns(
        [name for name in schema.names if not name.startswith("__index_level_")],
        options,
        str(path),
        images=lambda name: name in images,
        image_names=IMAGES,
        labels=[name for name in names if name.lower() not in SPLITS],
        cells=lambda name: _split_cells(file, path, name, names.get(name, ())),
    )
    if twice := [name for name, count in Counter(names.get(columns.label, ())).items() if count > 1]:
        raise DataError(f"{path} names the class {twice[0]!r} twice; name each class once")
    return FileColumns(columns, names)


def cell_texts(values: Sequence[Any], names: Sequence[str] = ()) -> list[str]:
    """Cells as text without blanks around it, empty where a cell is; a number that counts in `names` as its name."""

    def text(value: Any) -> str:
        if value is None or value != value:
            return ""
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return names[value] if is_number and 0 <= value < len(names) else str(value).strip()

    return list(map(text, values))


def _split_cells(file: Any, path: Path, name: str, names: Sequence[str]) -> list[str]:
    """What a column says, each text once; nothing if it is none of a split, which its first cells tell."""
    from pyarrow import types

    kind = file.schema_arrow.field(name).type
    if types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        return []
    with undamaged(path):
        batch = next(file.iter_batches(FIRST_CELLS, columns=[name]), None)
        first = [] if batch is None else cell_texts(batch.column(0).to_pylist(), names)
        if not has_word(name) and not any(map(split_word, first)) and len(set(first)) > FEW:
            return []
        return sorted(set(cell_texts(file.read([name]).column(0).to_pylist(), names)))


def _class_labels(schema: Any, path: Path) -> dict[str, tuple[str, ...]]:
    """The names of the classes of each column that the metadata call a ClassLabel; none where only their number is
    said.

    Raises:
        DataError: the metadata are damaged.
    """
    damaged = DataError(f"{path}: its metadata `huggingface` are damaged; write it again with `datasets`")
    content = (schema.metadata or {}).get(b"huggingface")
    if content is None:
        return {}
    try:
        described = from_json(content)
    except ValueError:
        raise damaged from None
    info = described.get("info") if isinstance(described, dict) else damaged
    features = info.get("features") if isinstance(info, dict) else info
    if features is None:
        return {}
    if not isinstance(features, dict):
        raise damaged
    found = {}
    for column, feature in features.items():
        if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel" or column not in schema.names:
            continue
        names = feature.get("names")
        if isinstance(names, dict):  # as a data set's card has them: {"0": "cat", "1": "dog"}
            if set(names) != set(map(str, range(len(names)))):
                raise damaged
            names = [names[str(number)] for number in range(len(names))]
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise damaged
        found[column] = tuple(class_name(name) for name in names or ())
    return found
