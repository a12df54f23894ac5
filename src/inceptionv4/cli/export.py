"""`inceptionv4 export`: a model in a form that other runtimes run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from inceptionv4.cli.console import Flag, say


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
    from inceptionv4.export.export import export_model
    from inceptionv4.export.int8 import describe_flips
    from inceptionv4.export.options import ExportOptions

    options = ExportOptions(
        format=format,
        output=output,
        profile=profile,
        soc_version=soc_version,
        precision=precision,
        int8=int8,
        calibrate=calibrate,
        samples=samples,
        validate=validate,
        max_drop=max_drop,
        pixels=pixels,
        batch_size=batch_size,
        encrypt_key_file=encrypt_key_file,
    )
    metadata, path = export_model(model, options), options.path
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
