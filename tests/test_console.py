"""What is printed: names that move no cursor, a standard output that is full, closed, or of a small encoding."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inceptionv4.cli import main, streams
from inceptionv4.errors import Error
from inceptionv4.inference.classifier import Classifier
from inceptionv4.printable import printable
from inceptionv4.runtime.files import write_text
from inceptionv4.runtime.progress import Progress
from inceptionv4.weights.checkpoint import load_checkpoint, save_checkpoint

Command = Callable[..., Any]
FULL = "error: standard output cannot be written: No space left on device\n"
CLASSES = ("caf\udce9", "\x1b]0;evil\x07\r\n\x1b[2J", "日本\u202e\x9b")
SHOWN = (r"caf\xe9", r"\x1b]0;evil\x07\r\n\x1b[2J", r"日本\u202e\x9b")
OBEYED = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@given(st.text())
def test_printable_text_is_on_one_line_and_says_what_it_was(text: str) -> None:
    shown = printable(text)
    assert not OBEYED.search(shown)
    assert "\n" not in shown
    if "\\" not in text and not re.search("[\udc80-\udcff]", text):
        assert ast.literal_eval(f"'''{shown}'''" if "'" not in text else repr(text)) == text


def test_names_as_people_see_them() -> None:
    assert tuple(map(printable, CLASSES)) == SHOWN
    assert printable("é ü 日本 👩‍🔬 ‏שלום") == "é ü 日本 👩‍🔬 ‏שלום"


@pytest.fixture(scope="module")
def odd(narrow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of classes, and a folder of a photograph for each, that are called what no one should call them."""
    folder = tmp_path_factory.mktemp("odd")
    checkpoint = load_checkpoint(narrow_model)
    save_checkpoint(replace(checkpoint, spec=replace(checkpoint.spec, classes=CLASSES)), folder / "odd.safetensors")
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (folder / "data" / name).mkdir(parents=True)
        for number in range(2):
            pixels = generator.integers(0, 255, (80, 80, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name / f"\x1b[1m{number}\n.png")
    return folder / "odd.safetensors", folder / "data"


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "MODEL", "DATA"),
        ("predict", "MODEL", "DATA", "--json"),
        ("predict", "MODEL", "DATA/gone\x1b[2J\n.png"),
        ("evaluate", "MODEL", "--data", "DATA"),
        ("evaluate", "MODEL\x1b[2J", "--data", "DATA"),
        ("data", "inspect", "DATA", "--mosaic", "OUT/m.png"),
        ("data", "inspect", "DATA", "--mosaic", "OUT/m.png", "--json"),
        ("data", "doctor", "DATA"),
        ("data", "doctor", "DATA", "--json"),
        ("data", "pack", "DATA", "OUT/packed"),
        ("convert", "MODEL", "OUT/a.safetensors"),
        ("convert", "MODEL", "OUT/\x1b[1m.npz"),
        ("benchmark", "predict", "MODEL", "DATA", "--rounds", "1"),
        ("train", "--data", "DATA\x1b[2J"),
        ("train", "--optimizer.lr", "\x1b[2J\n"),
        ("\x1b[2Jtrain",),
        ("export", "MODEL", "--format", "onnx", "--output", "OUT/a.onnx"),
        ("export", "MODEL", "--format", "onnx", "--output", "OUT/a.onnx", "--json"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_nothing_that_is_printed_is_obeyed(
    command: Command, odd: tuple[Path, Path], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    model, data = odd
    places = {"MODEL": str(model), "DATA": str(data), "OUT": str(tmp_path)}
    given = [re.sub("MODEL|DATA|OUT", lambda found: places[found[0]], argument) for argument in arguments]
    result = command(*given)
    assert "Traceback" not in result.err
    for text in (result.out, result.err):
        assert not OBEYED.search(text), ascii(OBEYED.findall(text))
    if "--json" in arguments and result.code == 0:
        for line in result.out.splitlines() if arguments[0] == "predict" else [result.out]:
            json.loads(line)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        "a.onnx",
        pytest.param("a.xml", marks=SLOW),
        pytest.param("a.pt2", marks=SLOW),
        pytest.param("a.mindir", marks=SLOW),
    ],
)
def test_names_come_through_every_format(command: Command, odd: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    """In the file and in the answers of its runtime they are what they were."""
    model, data = odd
    image = data / CLASSES[0] / "\x1b[1m0\n.png"
    form = "openvino" if name == "a.xml" else Path(name).suffix[1:]
    assert command("export", model, "--format", form, "--output", tmp_path / name).code == 0
    assert Classifier.load(tmp_path / name).spec.classes == CLASSES
    for path in (model, tmp_path / name):
        line = json.loads(command("predict", path, image, "--json").out)
        assert line["file"] == str(image)
        assert {guess["class"] for guess in line["predictions"]} == set(CLASSES)


def test_csv_has_the_bytes_of_names(odd: tuple[Path, Path], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    model, data = odd
    with pytest.raises(SystemExit):
        main(["predict", str(model), str(data), "--csv"])
    table = capfdbinary.readouterr().out.decode(errors="surrogateescape")
    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    assert {row["file"] for row in rows} == set(map(str, data.rglob("*.png")))
    assert {row["class"] for row in rows} == set(CLASSES)


@contextmanager
def stream(path: str, *, is_optional: bool = False, encoding: str = "utf-8") -> Iterator[Any]:
    descriptor = os.open(path, os.O_WRONLY)
    output = streams.Output(descriptor, is_optional=is_optional)
    yield streams._open(output, encoding, unbuffered=False, by_line=False)
    os.close(descriptor)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("predict", "--help"),
        ("--version",),
        ("train", "--print-config"),
        ("doctor",),
        ("doctor", "--json"),
        ("data", "inspect", "DATA", "--mosaic", "OUT/m.png"),
        ("data", "inspect", "DATA", "--mosaic", "OUT/m.png", "--json"),
        ("data", "doctor", "DATA"),
        ("data", "pack", "DATA", "OUT/packed"),
        ("predict", "MODEL", "DATA/brick/000.jpg"),
        ("predict", "MODEL", "DATA/brick/000.jpg", "--json"),
        ("predict", "MODEL", "DATA/brick/000.jpg", "--csv"),
        ("predict", "MODEL", "DATA/brick/000.jpg", "--embeddings", "OUT/a.npy"),
        ("evaluate", "MODEL", "--data", "DATA"),
        ("convert", "MODEL", "OUT/a.safetensors"),
        ("export", "MODEL", "--format", "onnx", "--output", "OUT/a.onnx"),
        ("benchmark", "predict", "MODEL", "DATA/brick/000.jpg", "--rounds", "1", "--json"),
    ],
    ids=" ".join,
)
def test_a_full_output_is_an_error_in_one_line(
    narrow_model: Path,
    textures: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    places = {"MODEL": str(narrow_model), "DATA": str(textures / "val"), "OUT": str(tmp_path)}
    given = [re.sub("MODEL|DATA|OUT", lambda found: places[found[0]], argument) for argument in arguments]
    with stream("/dev/full") as full, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            main(given)
    errors = capfd.readouterr().err
    assert (ended.value.code, errors.count("error: ")) == (1, 1), errors
    assert errors.endswith(FULL)
    assert not (tmp_path / "a.npy").exists()


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    given = {"capture_output": True} | options
    return subprocess.run([sys.executable, "-m", "inceptionv4", *arguments], check=False, timeout=60, **given)


def test_a_process_whose_output_is_full_ends_with_that_line_and_nothing_else() -> None:
    """At Python's own end nothing is left to be written, which it would print_error about."""
    with Path("/dev/full").open("wb") as full:
        for arguments, code, said in (
            (("--help",), 1, FULL.encode()),
            (("train", "--print-config"), 1, FULL.encode()),
            (("trai",), 2, b'error: Unknown command "trai"'),
        ):
            result = run(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
            assert result.returncode == code
            assert result.stderr.startswith(said)
            assert result.stderr.count(b"\n") <= 2
        assert run("--help", capture_output=False, stdout=full, stderr=full).returncode == 1
        assert run("trai", capture_output=False, stdout=subprocess.PIPE, stderr=full).stdout == b""


def test_closed_streams_take_everything_and_nothing_lands_elsewhere() -> None:
    for closed, argument, code in ((">&- 2>&-", "trai", 2), ("2>&-", "trai", 2), (">&- <&-", "--version", 0)):
        command = ["sh", "-c", f'exec "$0" -m inceptionv4 "$@" {closed}', sys.executable, argument]
        result = subprocess.run(command, capture_output=True, check=False)
        assert (result.returncode, result.stdout, result.stderr) == (code, b"", b"")


def test_a_reader_that_has_enough_is_no_error() -> None:
    for arguments in (("--help",), ("train", "--print-config")):
        command = [sys.executable, "-m", "inceptionv4", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.close()
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"")


def test_bytes_of_a_name_stay_and_letters_that_an_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    for encoding, expected in (
        ("ascii", b"caf\xe9 \\u65e5 \\xfc \xff\\ud800"),
        ("latin-1", b"caf\xe9 \\u65e5 \xfc \xff\\ud800"),
        ("utf-8", b"caf\xe9 \xe6\x97\xa5 \xc3\xbc \xff\\ud800"),
    ):
        (tmp_path / "out").write_bytes(b"")
        with stream(str(tmp_path / "out"), encoding=encoding) as text:
            text.write("caf\udce9 日 ü \udcff\ud800")
            text.flush()
        assert (tmp_path / "out").read_bytes() == expected


def test_progress_goes_on_where_standard_error_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    with stream("/dev/full", is_optional=True) as full, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", full)
        with Progress("training", total=10) as progress:
            for _ in range(10):
                progress.advance(1)
            progress.announce("a line")
        assert progress.done == 10
        assert full.output.is_lost


@pytest.mark.parametrize("place", ["/dev/full", "/dev/null", "/dev/stdout"])
def test_a_device_is_not_replaced_by_a_file(place: str) -> None:
    """As root, a rename would put a plain file in the place of the device."""
    before = os.lstat(place)
    with pytest.raises(Error, match=f"cannot write {place}: it is no regular file"):
        write_text(Path(place), "text")
    assert os.lstat(place).st_mode == before.st_mode


def test_nothing_prints_past_the_border() -> None:
    """Where `print` is called: what is for people goes through `say`, `note` and `print_error`."""
    root = Path(__file__).parents[1] / "src/inceptionv4"
    calls = {path: len(re.findall(r"(?<![\w.])print\(", path.read_text())) for path in root.rglob("*.py")}
    found = {str(path.relative_to(root)): count for path, count in calls.items() if count}
    assert found == {
        "printable.py": 1,
        "cli/console.py": 3,  # lines, paths, JSON
        "cli/__init__.py": 1,  # settings, as YAML
        "cli/export.py": 1,  # JSON
        "cli/predictions.py": 2,  # JSON, and a table whose cells are printable
    }
