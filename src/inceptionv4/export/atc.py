"""Ascend's compiler: what `atc` is given beside an ONNX graph, and running it.

AIPP is what an Ascend does to pixels before the network: it takes uint8 `(B, H, W, 3)` and computes
`(v - min_chn) * var_reci_chn` for each channel, which is `(v / 255 - mean) / std` for `min_chn = 255 mean` and
`var_reci_chn = 1 / (255 std)`.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inceptionv4.errors import Error
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.runtime.exported import sidecar
from inceptionv4.spec import Preprocessing

PRECISION_MODE = "force_fp16"
"""What a 310P can convolve in, and what `atc` takes if not told otherwise; said, so that it is what the .om records."""
LAST_LINES = 6
"""Lines of what `atc` said that are shown where it fails."""


def write_aipp(preprocessing: Preprocessing) -> str:
    """The configuration of AIPP: RGB in, as decoded, of the network's size, normalised as `preprocessing` says."""
    lines = [
        "aipp_mode: static",
        "related_input_rank: 0",
        "input_format: RGB888_U8",
        "csc_switch: false",
        "rbuv_swap_switch: false",
        f"src_image_size_w: {preprocessing.size}",
        f"src_image_size_h: {preprocessing.size}",
        "crop: false",
    ]
    lines += [f"min_chn_{channel}: {255 * mean:.9g}" for channel, mean in enumerate(preprocessing.mean)]
    lines += [f"var_reci_chn_{channel}: {1 / (255 * std):.9g}" for channel, std in enumerate(preprocessing.std)]
    return "aipp_op {\n" + "".join(f"    {line}\n" for line in lines) + "}\n"


@dataclass(frozen=True)
class Recipe:
    """How `graph`, an ONNX file of the same folder, becomes the .om `name` that `metadata` describes."""

    graph: str
    name: str
    metadata: ExportMetadata

    @property
    def aipp(self) -> str | None:
        """The name of the configuration of AIPP; None: the model takes floats."""
        return f"{Path(self.name).stem}.aipp.cfg" if self.metadata.input == "uint8" else None

    @property
    def script(self) -> str:
        """The name of the script that compiles."""
        return f"{Path(self.name).stem}.atc.sh"

    def command(self) -> list[str]:
        """For `atc`, in the folder of the graph. The input's shape is the graph's, whatever AIPP makes of it."""
        size = self.metadata.spec.preprocessing.size
        return [
            "atc",
            "--framework=5",
            f"--model={self.graph}",
            f"--output={Path(self.name).stem}",
            "--input_format=NCHW",
            f"--input_shape=images:{self.metadata.batch_size},3,{size},{size}",
            f"--soc_version={self.metadata.soc_version}",
            f"--precision_mode={PRECISION_MODE}",
            *([f"--insert_op_conf={self.aipp}"] if self.aipp else []),
            "--log=error",
        ]

    def write(self, folder: Path) -> None:
        """Write what stands beside the graph: AIPP's configuration, and a script that compiles the graph and then
        writes the description of the .om, which nothing ran.
        """
        if self.aipp:
            (folder / self.aipp).write_text(write_aipp(self.metadata.spec.preprocessing), encoding="utf-8")
        takes = "uint8 (B, H, W, 3), pixels as decoded" if self.aipp else "float32 (B, 3, H, W), normalised"
        script = (
            f"#!/bin/sh\n# Makes {self.name!a}, which takes {takes}, where CANN is:\n"
            "# source /usr/local/Ascend/ascend-toolkit/set_env.sh\n"
            'set -e\ncd "$(dirname "$0")"\n'
            f"{shlex.join(self.command())}\n"
            f"content=$(sha256sum < {shlex.quote(self.name)})\n"
            # A string in JSON ends no line: no line of it is END, and one alone is the empty checksum's.
            'sed \'s/^  "content": ""/  "content": "\'"${content%% *}"\'"/\' '
            f"> {shlex.quote(sidecar(Path(self.name)).name)} <<'END'\n"
            f"{replace(self.metadata, content='').to_json()}\nEND\n"
        )
        (folder / self.script).write_text(script, encoding="utf-8")

    def compile(self, compiler: str, folder: Path) -> None:
        """Run `atc` in `folder`, in which the .om takes the place of the graph.

        Raises:
            Error: it fails.
        """
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # atc leaves notes of its own where it runs
            if self.aipp:
                text = write_aipp(self.metadata.spec.preprocessing)
                (Path(scratch) / self.aipp).write_text(text, encoding="utf-8")
            (folder / self.graph).rename(Path(scratch) / self.graph)
            done = subprocess.run(
                [compiler, *self.command()[1:]],
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            said = done.stdout.decode(errors="replace").splitlines()
            made = Path(scratch) / self.name
            if done.returncode or not made.is_file():
                raise Error(
                    f"atc made no {self.name} (exit code {done.returncode}); nothing was kept. "
                    f"Its last lines: {_last(said)}. The command was: {shlex.join(self.command())}"
                )
            made.rename(folder / self.name)


def find_compiler() -> str | None:
    """Path of `atc`; None: not on PATH."""
    return shutil.which("atc")


def _last(lines: Sequence[str]) -> str:
    words = [line.strip() for line in lines if line.strip()]
    return " / ".join(words[-LAST_LINES:]) or "none"
