"""`inceptionv4 export`: a model in a form that other runtimes run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from inceptionv4.cli.console import Flag, say
from inceptionv4.config import MOST_IMAGES

SUFFIXES = {"openvino": ".xml"}
"""Of files, where it is not the format's name."""
FIXED = ("mindir", "air", "om")
"""Formats that take a fixed number of images."""


def export(
    model: str,
    /,
    *,
    format: Literal["onnx", "openvino", "om", "mindir", "air"],
    output: Path | None = None,
    profile: Literal["ascend"] | None = None,
    soc_version: str | None = None,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    int8: Flag = False,
    calibrate: str | None = None,
    samples: int = 300,
    validate: str | None = None,
    max_drop: float = 0.3,
    pixels: Annotated[bool | None, Parameter(negative="--no-pixels", show_default=False)] = None,
    batch_size: int | None = None,
    encrypt_key_file: Path | None = None,
    json: Flag = False,
) -> None:
    """Write a model for another runtime, run it there on real images, and keep it only if it answers alike.

    Parameters
    ----------
    model
        Any model that can be read: a run folder, a file of weights, hf-hub:OWNER/NAME.
    format
        onnx, openvino, om (Ascend), mindir (MindSpore), or air (deprecated, needs an Ascend).
    output
        The file; inceptionv4 with the format's ending, in this folder, if not given.
    profile
        onnx: ascend, a graph that Ascend's compiler reads, with the command that compiles it beside it.
    soc_version
        om, --profile ascend: the chip, Ascend and what npu-smi info calls it; this machine's, else Ascend310P3.
    precision
        openvino: what it computes in, fp32 if not given. An om computes in fp16, the others in fp32.
    int8
        onnx, openvino: round to 8 bits, by ranges measured on images (--calibrate).
    calibrate
        int8: labelled images in any layout, of which --samples of the training ones set the ranges.
    samples
        int8: how many.
    validate
        Labelled images, on held-out ones of which the file is compared with the model, and with --int8 accuracy is
        measured; if not given, --calibrate's, else those that the model was trained beside, else digits.
    max_drop
        int8: points of top-1 that it may cost. Where it costs more, and significantly on so many images, the worst
        convolutions stay in float.
    pixels
        onnx, openvino, mindir: the graph takes uint8 (B, H, W, 3) as decoded, and normalises by itself. An om does
        so unless --no-pixels is given; it then takes float32 (B, 3, H, W), normalised, as the others do.
    batch_size
        A fixed number of images at once; any number, if not given (mindir, air, om, --profile ascend: 1).
    encrypt_key_file
        mindir: a file of 16, 24 or 32 bytes to encrypt by.
    json
        Print the description that travels with the file.
    """
    from inceptionv4.errors import UsageError
    from inceptionv4.export.ascend import Ascend
    from inceptionv4.export.export import export_model
    from inceptionv4.export.int8 import Int8, describe_flips
    from inceptionv4.export.mindspore import read_key

    suffix = SUFFIXES.get(format, f".{format}")
    path = output or Path(f"inceptionv4{suffix}")
    if path.suffix != suffix:
        raise UsageError(f"--output must end in {suffix}, got {path}")
    if batch_size is not None and not 1 <= batch_size <= MOST_IMAGES:
        raise UsageError(f"--batch-size must be at least 1 and at most {MOST_IMAGES}, got {batch_size}")
    if encrypt_key_file is not None and format != "mindir":
        raise UsageError("--encrypt-key-file is for --format mindir; others are not encrypted")
    for_ascend = format == "om" or profile == "ascend"
    if profile is not None and format != "onnx":
        raise UsageError(f"--profile {profile} is for --format onnx, not for {format}")
    if soc_version is not None and not for_ascend:
        raise UsageError("--soc-version is for --format om and --profile ascend")
    if pixels and format == "air":
        raise UsageError("--pixels is for onnx, openvino and mindir (an om takes pixels anyway), not for air")
    if int8 and format not in ("onnx", "openvino"):
        raise UsageError(f"--int8 is for onnx and openvino, not for {format}")
    if int8 and calibrate is None:
        raise UsageError("--int8 needs images like those that it will see: --calibrate FOLDER")
    if not int8 and (calibrate is not None or (samples, max_drop) != (Int8.samples, Int8.max_drop)):
        raise UsageError("--calibrate, --samples and --max-drop are for --int8; give it, too, or leave them out")
    if int8 and precision is not None:
        raise UsageError(f"--int8 and --precision {precision} are two precisions; give one of them")
    if not path.parent.is_dir():
        raise UsageError(f"--output is to be in {path.parent}, which is no folder; make it, or give another")
    if samples < 1 or not 0 <= max_drop < math.inf:
        raise UsageError(
            f"--samples must be at least 1 and --max-drop a number, at least 0, got {samples} and {max_drop:g}"
        )
    metadata = export_model(
        model,
        format,
        path,
        precision=precision,
        pixels=bool(pixels) and not for_ascend,  # there it is the chip that normalises
        batch_size=batch_size or (1 if format in FIXED else None),
        int8=Int8(str(calibrate), samples, validate, max_drop) if int8 else None,
        images=validate,
        key=None if encrypt_key_file is None else read_key(encrypt_key_file),
        ascend=Ascend(soc_version, aipp=pixels is not False) if for_ascend else None,
    )
    if json:
        print(metadata.to_json())
        return
    files = (path, path.with_suffix(".bin")) if format == "openvino" else (path,)
    size = sum(file.stat().st_size for file in files)
    encrypted = ", encrypted" if encrypt_key_file is not None else ""
    say(f"{path}: {format}, {metadata.precision}{encrypted}, {size / 1e6:.1f} MB")
    if metadata.verification is not None:
        say(metadata.verification)
    if metadata.unverified_reason is not None:
        say(f"unverified: {metadata.unverified_reason}")
    if profile == "ascend":
        say(f"{path.with_suffix('.atc.sh')}: makes {path.with_suffix('.om').name} of it, where CANN is")
    if (calibration := metadata.calibration) is not None:
        say(f"top-1 {calibration.top1_int8:.2%} in int8, {calibration.top1_float:.2%} in float")
        say(describe_flips(calibration.images, calibration.lost, calibration.gained))
        if calibration.float_layers:
            say(f"in float: {', '.join(calibration.float_layers)}")
