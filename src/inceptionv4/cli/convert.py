"""`inceptionv4 convert`: weights and settings of other projects to ours, and weights back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts import App

from inceptionv4.cli.console import Setting, say

app = App(
    name="convert",
    help="Weights of another project to ours or back. --image.size, --image.crop_mode and so on, as for `train`, say "
    "how images are prepared, where the weights do not. `convert config` is for settings of MindSpore's model zoo.",
)


@app.default
def convert(
    source: str,
    output: Path,
    /,
    *settings: Setting,
    to: Literal["inceptionv4", "timm", "mindspore", "huggingface"] | None = None,
    classes: Path | None = None,
) -> None:
    """Write weights in another form, and say what became of every array.

    Parameters
    ----------
    source
        Weights of timm, Cadene, MindSpore's model zoo, MindCV, TF-slim (.npz) or PaddleClas, an ONNX file, a Hugging
        Face folder, hf-hub:OWNER/NAME, or a model of ours.
    output
        .safetensors for ours, .ckpt for MindSpore's, a folder for Hugging Face's.
    to
        The form, where the name of output does not say it: timm for a .safetensors with timm's names.
    classes
        A text file with a class a line, for weights that come without names.
    """
    from inceptionv4.runtime.exported import sidecar
    from inceptionv4.settings import read_options
    from inceptionv4.weights.write import convert as run
    from inceptionv4.weights.write import format_of

    form = to or format_of(output)
    checkpoint, report = run(source, output, form, classes, read_options(settings))
    if report is not None:
        say(*report.lines())
    spec = checkpoint.spec
    some = ", ".join(spec.classes[:3]) + (", ..." if len(spec.classes) > 3 else "")
    say(f"{output}: {len(spec.classes)} classes ({some}), {spec.preprocessing.describe()}")
    if form == "mindspore":
        say(f"{sidecar(output)}: its classes and preprocessing, which it has no place for; keep both together")


@app.command
def config(source: Path, output: Path, /) -> None:
    """Turn a settings file of MindSpore's model zoo into a recipe, and say what became of every key.

    Parameters
    ----------
    source
        default_config.yaml, default_config_gpu.yaml, default_config_cpu.yaml, or yours.
    output
        The recipe, for `train --config`.
    """
    from inceptionv4.errors import UsageError
    from inceptionv4.modelzoo import convert_settings
    from inceptionv4.runtime.files import write_text

    if output.exists() and source.exists() and output.samefile(source):
        raise UsageError(f"{output} is the source; name another file")
    conversion = convert_settings(source)
    write_text(output, conversion.recipe)
    for line in conversion.lines:
        say(line)
    for key in conversion.unknown:
        say(f"{key} -> unknown, left out")
    say(f"{output}: inceptionv4 train --config {output}")
