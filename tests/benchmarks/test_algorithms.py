"""The closing figures of benchmarks/algorithms.py, by hand."""

import pytest
from algorithms import summary


def run(*dice: float) -> dict[str, list[float]]:
    return {"epoch": [3.0, 6.0], "dice": list(dice), "loss": []}


def test_summary():
    figures = summary({"winograd": {"1": run(0.5, 0.8), "2": run(0.7, 0.84)},
                       "direct": {"1": run(0.6, 0.82), "2": run(0.71, 0.8)}})
    # Algorithms: seed 1 at most 0.1 apart, seed 2 at most 0.04. Seeds: Winograd at most 0.2, direct at most 0.11.
    assert figures == pytest.approx({"dice_winograd": 0.82, "dice_direct": 0.81, "apart_by_algorithm": 0.07,
                                     "apart_by_seed": 0.155})
