"""The estimates of docs/scale.md are those of its script, and the script's are right where another way leads there."""

from __future__ import annotations

from pathlib import Path

import pytest
import scale

ROOT = Path(__file__).parents[1]


def test_the_page_has_what_the_script_prints() -> None:
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    assert scale.table() in page
    for figure in (f"{scale.forward_work(299) / 1e9:.1f} GFLOP", f"{scale.parameters():,} parameters"):
        assert figure in page
    assert f"reached {scale.efficiency():.0%} of its peak".replace("%", " %") in page


def test_the_loader_figure_is_the_measured_one() -> None:
    results = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    assert f"| ours, what an accelerator leaves to the processor, images/s | {scale.LOADED_PER_CORE} |" in results


def test_by_hand() -> None:
    """Eight H100: 12.25 GMAC an image, three passes, 15.9 % of 989 TFLOP/s each."""
    eight = scale.CLUSTERS[0]
    assert scale.rate(eight, 299) == pytest.approx(8 * 0.159 * 989e12 / (3 * 2 * 12.25e9), rel=5e-3)
    # 4 * 42.68e6 bytes, seven eighths of them twice over a line of 300 GB/s, and three levels there and back.
    assert scale.reduce_seconds(eight, 4 * 42.68e6) == pytest.approx(170.7e6 * 1.75 / 300e9 + 60e-6, rel=1e-3)
    found = scale.estimate(eight)
    images = 300 * (1_281_167 // 1024) * 1024
    assert found.hours * 3600 == pytest.approx(images / found.mean_rate + 300 * 50_000 / (3 * found.rate))
    assert found.rate < found.mean_rate < found.top_rate


def test_the_original_took_what_its_rate_says() -> None:
    hours = 250 * 1_200_000 / (8 * scale.PUBLISHED_RATE) / 3600
    assert hours == pytest.approx(18.8, abs=0.05)
    assert hours < 20
