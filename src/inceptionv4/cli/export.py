"""`inceptionv4 export`: a model in a form that other runtimes run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def export(
    model: str,
    /,
    *,
    format: Literal["mindir", "air"],
    output: Path | None = None,
    batch_size: int = 1,
    encrypt_key_file: Path | None = None,
) -> None:
    """Write a model for another runtime, and check that it answers alike.

    Parameters
    ----------
    model
        Any model that can be read: a run folder, a file of weights, hf-hub:OWNER/NAME.
    format
        mindir, for MindSpore; or air, which is deprecated and needs an Ascend to be written.
    output
        The file; inceptionv4.mindir or inceptionv4.air in this folder, if not given.
    batch_size
        Images that it takes at once, always.
    encrypt_key_file
        mindir: a file of 16, 24 or 32 bytes to encrypt by.
    """
    from inceptionv4.errors import UsageError
    from inceptionv4.export.mindspore import export_air, export_mindir, read_key

    path = output or Path(f"inceptionv4.{format}")
    if path.suffix != f".{format}":
        raise UsageError(f"--output must end in .{format}, got {path}")
    if batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {batch_size}")
    if format == "air":
        if encrypt_key_file is not None:
            raise UsageError("--encrypt-key-file is for --format mindir; MindSpore encrypts no AIR")
        export_air(model, path, batch_size=batch_size)
        print(f"{path}: AIR, unverified: no machine here can run it")
        return
    key = None if encrypt_key_file is None else read_key(encrypt_key_file)
    difference = export_mindir(model, path, batch_size=batch_size, key=key)
    print(f"{path}: {'encrypted ' if key else ''}MINDIR, logits within {difference:.1g} of the model's")
