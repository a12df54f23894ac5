"""Answers are fp32 by PyTorch unless another precision or runtime is asked for; `auto` decides once, and says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inceptionv4.errors import RunError, UsageError
from inceptionv4.evaluation.evaluate import evaluate
from inceptionv4.export.export import export_model
from inceptionv4.export.options import ExportOptions
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.inference import open_weights, trial
from inceptionv4.inference.backends.backend import Backend, GraphBackend
from inceptionv4.inference.backends.onnx import OnnxBackend
from inceptionv4.inference.backends.openvino import OpenVinoBackend, computes, precisions
from inceptionv4.inference.classifier import Classifier
from inceptionv4.inference.distributed import require_same_runtime
from inceptionv4.inference.images import NamedImage
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.runtime import device
from inceptionv4.runtime.distributed import Ranks
from inceptionv4.weights.load import load_model

CPU = ("--device", "cpu")

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Largest difference of a logit from float64's that is rounding, as a share of the logits' spread."""


def pixels(count: int) -> Tensor:
    return torch.randint(256, (count, 3, 75, 75), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)


def float64_logits(model: Path, images: Tensor) -> Tensor:
    """Of the plain network."""
    with torch.no_grad():
        return load_model(model)[0].double()((images.double() / 255 - 0.5) / 0.5)


@pytest.fixture
def fastest(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """Decide which runtime is timed as the fastest, whatever this machine thinks."""

    def decide(name: str, speed: float = 100.0) -> None:
        def measure(backend: Backend, images: Tensor) -> float:
            return speed if backend.describe().startswith(name) else 10.0

        monkeypatch.setattr(trial, "measure_speed", measure)

    return decide


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """45 images are many."""
    monkeypatch.setattr(trial, "HINT_AFTER", 44)


# The default


def test_weights_are_answered_in_fp32_by_pytorch_whatever_the_processor_has(
    narrow_model: Path, textures: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    monkeypatch.setattr(device, "computes_bf16", lambda _: True)
    backend = open_backend(narrow_model, device="cpu")
    assert (backend.runtime, backend.precision) == ("torch", "fp32")
    expected = float64_logits(narrow_model, pixels(16))
    spread = float(expected.max() - expected.min())
    assert float((backend.infer(pixels(16)).double() - expected).abs().max()) < TOLERANCES["fp32"] * spread
    measured = json.loads(command("evaluate", narrow_model, "--data", textures, "--json", *CPU).out)
    assert (measured["precision"], measured["runtime"].split(",")[0]) == ("fp32", "PyTorch")
    assert command("predict", narrow_model, textures / "val/brick/000.jpg", *CPU).err == ""
    # `auto` is what this test pretends that the processor has.
    assert open_backend(narrow_model, precision="auto", device="cpu").precision == "bf16"


def test_an_image_is_told_the_same_as_the_first_and_as_the_last_of_2000(narrow_model: Path, textures: Path) -> None:
    """Full batches of 16, a last one of 9, and the image by itself: equal but for the rounding of fp32."""
    content = (textures / "val/grass/003.jpg").read_bytes()
    others = [file.read_bytes() for file in sorted(textures.rglob("*.jpg"))[:7]]
    same = (0, 15, 16, 1007, 1024, 1999, 2008)
    images = [NamedImage(str(n), lambda n=n: content if n in same else others[n % 7]) for n in range(2009)]
    classifier = Classifier.load(narrow_model, device="cpu")
    found = [{guess.label: guess.probability for guess in answer.top} for answer in classifier.predict(images)]
    (alone,) = classifier([textures / "val/grass/003.jpg"])
    for place in same:
        for guess in alone.top:
            assert found[place][guess.label] == pytest.approx(guess.probability, rel=0, abs=1e-6)
    assert abs(found[1]["grass"] - found[0]["grass"]) > 1e-5, "others are told something else"


# What is asked for


@pytest.mark.isa
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_is_asked_for_is_what_answers_or_an_error(narrow_model: Path, runtime: Any, precision: Any) -> None:
    """Each within its own rounding of the plain network in float64."""
    possible: dict[str, tuple[str, ...]] = {
        "torch": ("fp32", "bf16", "fp16"),
        "onnxruntime": ("fp32",),
        "openvino": tuple(one for one in ("fp32", "bf16", "fp16") if computes(one)),  # type: ignore[arg-type]
    }
    if precision not in possible[runtime]:
        with pytest.raises(UsageError, match=rf"computes .*in .*, not in {precision}; give --precision"):
            open_backend(narrow_model, runtime=runtime, precision=precision, device="cpu")
        return
    backend = open_backend(narrow_model, runtime=runtime, precision=precision, device="cpu")
    assert (backend.runtime, backend.precision) == (runtime, precision)
    assert precision in backend.describe().split(", ")
    expected = float64_logits(narrow_model, pixels(21))
    difference = (backend.infer(pixels(21)).double() - expected).abs().max() / (expected.max() - expected.min())
    assert float(difference) < TOLERANCES[precision]
    if precision != "fp32":
        assert float(difference) > 1e-5, "it is rounded more coarsely than fp32"


def test_runtimes_that_are_not_here_are_named(narrow_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--runtime openvino needs onnx and openvino: pip install .*\[openvino\]"):
        open_backend(narrow_model, runtime="openvino")
    with pytest.raises(UsageError, match=r"pip install 'inceptionv4\[onnx\]'"):
        open_backend(narrow_model, runtime="onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["onnxruntime", "openvino", "onnx"])
def test_packages_that_are_here_need_not_work(narrow_model: Path, textures: Path, tmp_path: Path, module: str) -> None:
    """In processes of their own, where one of them raises as it is imported: who named it is told, others go on."""
    (tmp_path / f"{module}.py").write_text("raise OSError('libbroken.so: no such file')\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}

    def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", f"from inceptionv4.inference import trial; {code}", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    main = "trial.HINT_AFTER = 44; from inceptionv4.cli import main; main()"
    default = run(main, "evaluate", narrow_model, "--data", textures, *CPU)
    assert (default.returncode, "(45 images)" in default.stdout) == (0, True), default.stderr
    named = "openvino" if module == "openvino" else "onnxruntime"
    result = run(main, "evaluate", narrow_model, "--data", textures, "--runtime", named, *CPU)
    assert (result.returncode, f"{module} is installed, but does not load" in result.stderr) == (2, True), result.stderr
    auto = run(main, "evaluate", narrow_model, "--data", textures, "--runtime", "auto", *CPU)
    assert (auto.returncode, "not used: " in auto.stderr) == (0, True), auto.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "numpy"}, "--runtime is one of auto, torch, onnxruntime, openvino, got 'numpy'"),
        ({"precision": "fp64"}, "--precision is one of auto, fp32, bf16, fp16, got 'fp64'"),
    ],
)
def test_what_is_no_option_is_refused_in_python_too(narrow_model: Path, options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Classifier.load(narrow_model, **options)


def test_an_exported_file_has_its_own(narrow_model: Path, textures: Path, tmp_path: Path, command: Any) -> None:
    image = textures / "val/brick/000.jpg"
    for form, ending, runtime in (("onnx", "onnx", "onnxruntime"), ("openvino", "xml", "openvino")):
        path = tmp_path / f"m.{ending}"
        export_model(str(narrow_model), ExportOptions(format=form, output=path, validate=str(textures)))  # type: ignore[arg-type]
        own, auto = ("--runtime", runtime, "--precision", "fp32"), ("--runtime", "auto", "--precision", "auto")
        for options in ((), own, auto):
            result = command("predict", path, image, *options)
            assert (result.code, f"answers come from {open_backend(path).describe()}" in result.err) == (0, True)
        for options, words in (
            (("--runtime", "torch"), f"m.{ending} is an exported file, which {runtime} runs, not torch"),
            (("--precision", "bf16"), f"m.{ending} is an exported file, which is computed in fp32 here, not in bf16"),
        ):
            for arguments in (("predict", path, image), ("evaluate", path, "--data", textures)):
                result = command(*arguments, *options)
                assert (result.code, words in result.err) == (2, True), result.err


def test_features_come_from_pytorch(
    narrow_model: Path, textures: Path, tmp_path: Path, command: Any, fastest: Any, many: None
) -> None:
    fastest("OpenVINO", 23.0)
    image, file = textures / "val/brick/000.jpg", tmp_path / "features.npy"
    for runtime, words in (
        ("openvino", "gives logits alone; name the run or the checkpoint"),
        ("auto", "--embeddings come from PyTorch; leave --runtime auto out"),
    ):
        result = command("predict", narrow_model, image, "--embeddings", file, "--runtime", runtime, *CPU)
        assert (result.code, words in result.err) == (2, True), result.err
        assert not file.exists()
    result = command("predict", narrow_model, textures / "val", "--embeddings", file, *CPU)
    assert (result.code, "times as fast" in result.err) == (0, False), "it hints at nothing that has no features"
    assert np.load(file).shape[0] == 45


# The trial of `--runtime auto`


@pytest.mark.parametrize(("name", "runtime"), [("OpenVINO", "openvino"), ("ONNX", "onnxruntime"), ("PyTorch", "torch")])
def test_the_fastest_answers_from_the_first_image_on(
    narrow_model: Path, textures: Path, fastest: Any, capfd: pytest.CaptureFixture[str], name: str, runtime: str
) -> None:
    fastest(name)
    backend = open_backend(narrow_model, runtime="auto", device="cpu")
    assert (backend.runtime, backend.precision) == (runtime, "fp32")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("trial on 16 images of 75 px:\n  PyTorch, ")
    assert f"  {backend.describe()}: 100.0 images/s\n" in printed.err
    assert sorted(one.images_per_second or 0 for one in backend.trials) == [10.0, 10.0, 100.0]
    for count in (1, 16, 40):
        expected = float64_logits(narrow_model, pixels(count)).float()
        torch.testing.assert_close(backend.infer(pixels(count)), expected, rtol=0, atol=1e-4)


def test_a_little_faster_is_not_enough(narrow_model: Path, fastest: Any) -> None:
    fastest("OpenVINO", 10.4)
    assert open_backend(narrow_model, runtime="auto", device="cpu").runtime == "torch"


def test_a_runtime_that_answers_differently_or_fails_is_not_taken(
    narrow_model: Path, fastest: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One logit of one image is off by a hundredth of their spread; the other runtime raises."""
    fastest("wrong")

    class Wrong(GraphBackend):
        runtime = "onnxruntime"

        def __init__(self, right: GraphBackend) -> None:
            super().__init__(right.metadata)
            self._right = right

        def run(self, images: np.ndarray) -> np.ndarray:
            logits = self._right.run(images).copy()
            logits[0, 0] += 0.01 * (logits.max() - logits.min())
            return logits

        def describe(self) -> str:
            return "wrong"

    def fail(graph: bytes, metadata: ExportMetadata) -> GraphBackend:
        raise RuntimeError("no such instruction")

    of_graph = OnnxBackend.of_graph
    monkeypatch.setattr(OnnxBackend, "of_graph", lambda *arguments: Wrong(of_graph(*arguments)))
    monkeypatch.setattr(OpenVinoBackend, "of_graph", fail)
    backend = open_backend(narrow_model, runtime="auto", device="cpu")
    assert backend.runtime == "torch"
    said = capfd.readouterr().err
    assert "  wrong: not used: a logit differs by" in said
    assert "  OpenVINO: not used: no such instruction" in said


def test_several_processes_name_their_runtime(narrow_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each could choose another."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="--runtime auto is for one process"):
        open_backend(narrow_model, runtime="auto")


def test_processes_that_compute_differently_do_not_share_an_evaluation(narrow_model: Path) -> None:
    class Other(Ranks):
        def gather(self, value: Any) -> list[Any]:
            return [value, ("torch", "bf16")]

    backend = open_backend(narrow_model, device="cpu")
    with pytest.raises(RunError, match="process 1 of 2 computes by torch in bf16, the first by torch in fp32"):
        require_same_runtime(Other(0, 2), backend)
    require_same_runtime(Other(0, 2), open_backend(narrow_model, device="cpu", precision="bf16"))


def test_a_benchmark_shows_the_trial(narrow_model: Path, textures: Path, command: Any, fastest: Any) -> None:
    fastest("ONNX")
    arguments = ("benchmark", "predict", narrow_model, textures / "val/brick/000.jpg", "--rounds", 1)
    speed = json.loads(command(*arguments, "--runtime", "auto", "--device", "cpu", "--json").out)
    assert speed["runtime"].startswith("ONNX Runtime")
    assert sorted(speed["tried"].values()) == [10.0, 10.0, 100.0]
    words = command(*arguments, "--runtime", "auto", "--device", "cpu").out
    assert ": 100.0 img/s" in words
    assert json.loads(command(*arguments, "--json").out)["tried"] == {}


# The hint


def test_a_long_run_says_once_what_would_be_faster(
    narrow_model: Path, textures: Path, command: Any, fastest: Any, many: None
) -> None:
    fastest("OpenVINO", 23.0)
    words = "--runtime openvino --precision bf16" if "bf16" in precisions() else "--runtime openvino"
    for arguments in (("evaluate", narrow_model, "--data", textures), ("predict", narrow_model, textures / "val")):
        result = command(*arguments, *CPU)
        assert f"{words} would be 2.3 times as fast here" in result.err
        assert result.err.count("times as fast") == 1
    assert evaluate(narrow_model, textures, device="cpu").runtime.startswith("PyTorch"), "it changes nothing"


def test_who_has_decided_is_told_nothing(
    narrow_model: Path, textures: Path, command: Any, fastest: Any, many: None
) -> None:
    fastest("OpenVINO", 23.0)
    for options in (("--precision", "fp32"), ("--runtime", "torch")):
        assert "times as fast" not in command("evaluate", narrow_model, "--data", textures, *options, *CPU).err
    fastest("OpenVINO", 14.9)
    assert "times as fast" not in command("evaluate", narrow_model, "--data", textures, *CPU).err


def test_a_short_run_measures_nothing(
    narrow_model: Path, textures: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> float:
        raise AssertionError("measured")

    monkeypatch.setattr(trial, "measure_speed", refuse)
    assert command("evaluate", narrow_model, "--data", textures, *CPU).code == 0
