"""Hand-computed rates of warm-up and cosine."""

import pytest

from src.lr_schedule import learning_rate


@pytest.mark.parametrize(("step", "expected"), [
    (0, 0.3), (1, 0.475), (2, 0.65), (3, 0.825),  # linear from 0.3 to 1 over 4 steps
    (4, 1.0),
    (6, 0.75), (7, 0.5), (8, 0.25),  # cosine over the 6 steps that remain: 0.5 (1 + cos(pi k / 6)), k = 2, 3, 4
    (10, 0.0),
])
def test_warm_up_and_cosine(step, expected):
    assert learning_rate(step, 11, 2.0, 4, 0.3) == pytest.approx(2 * expected, abs=1e-12)


def test_without_warm_up_it_starts_at_base():
    assert learning_rate(0, 3, 0.1) == 0.1
    assert learning_rate(1, 3, 0.1) == pytest.approx(0.05)
    assert learning_rate(2, 3, 0.1) == 0


def test_a_run_within_its_warm_up_only_warms_up():
    assert [learning_rate(s, 3, 1.0, 10, 0.0) for s in range(3)] == pytest.approx([0, 0.1, 0.2])
    assert learning_rate(2, 3, 1.0, 2, 0.5) == 1.0


@pytest.mark.parametrize("step", [-1, 5])
def test_steps_outside_the_run_are_refused(step):
    with pytest.raises(ValueError, match="expected 0 to 4"):
        learning_rate(step, 5, 1.0)
