"""A hundred thousand images of one archive take no more memory than two thousand do."""

from __future__ import annotations

from pathlib import Path

from growth import peak_memory, write_tiny_images


def test_a_hundred_thousand_images(narrow_model: Path, tmp_path: Path) -> None:
    options = ("--embeddings", str(tmp_path / "out.npy"))
    peaks = {}
    for count in (2000, 100_000):
        archive = write_tiny_images(tmp_path / f"{count}.zip", count)
        peaks[count] = peak_memory(narrow_model, archive, count, *options)
    print({count: f"{peak:.1f} MiB" for count, peak in peaks.items()})
    assert peaks[100_000] - peaks[2000] < 30
