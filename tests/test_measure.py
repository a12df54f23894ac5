"""benchmarks/measure.py: figures that cannot be right are refused."""

from __future__ import annotations

import pytest
from measure import require_different


def test_one_figure_for_different_programs_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"^peak_mb is 4631 to 4631\.5 for all of ours, timm, train_step"):
        require_different("peak_mb", {"ours": 4631.0, "timm": 4631.5, "train_step": 4631.2})
    with pytest.raises(RuntimeError, match="for all of ours, timm"):
        require_different("peak_mb", {"ours": 1000.0, "timm": 1001.0})


@pytest.mark.parametrize(
    "figures",
    [
        {"ours": 1739.0, "timm": 1738.0, "train_step": 1900.0},
        {"ours": 1000.0, "timm": 1001.2},
        {"ours": 1000.0},
        {},
    ],
)
def test_figures_that_differ_pass(figures: dict[str, float]) -> None:
    """They raise nothing, where equal ones do (above)."""
    require_different("peak_mb", figures)
    if len(figures) > 1:
        with pytest.raises(RuntimeError, match="peak_mb"):
            require_different("peak_mb", dict.fromkeys(figures, 1000.0))
