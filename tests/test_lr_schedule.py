"""Hand-computed rates of warm-up and cosine."""

import pytest

from src.lr_schedule import learning_rate, scale_for_ranks


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


@pytest.mark.parametrize(("rule", "expected"), [
    ("none", (0.5, 120, 0.3)), ("linear", (2.0, 30, 0.075)), ("sqrt", (1.0, 30, 0.15))])
def test_four_ranks(rule, expected):
    base, steps, ratio = scale_for_ranks(rule, 4, 0.5, 120, 0.3)
    assert (base, steps, ratio) == pytest.approx(expected)
    # Warm-up starts at the rate that one rank starts at, whatever the rule.
    assert learning_rate(0, 500, base, steps, ratio) == pytest.approx(0.15)


def test_one_rank_is_not_scaled_and_warm_up_is_rounded_up():
    for rule in ("none", "linear", "sqrt"):
        assert scale_for_ranks(rule, 1, 0.5, 120, 0.3) == (0.5, 120, 0.3)
    assert scale_for_ranks("linear", 3, 1.0, 10, 0.3)[1] == 4
    assert scale_for_ranks("linear", 3, 1.0, 0, 0.3)[1] == 0
    with pytest.raises(ValueError, match="expected one of none, linear, sqrt"):
        scale_for_ranks("cubic", 2, 1.0, 0, 0.0)


def test_constant_after_the_warm_up():
    rates = [learning_rate(step, 6, 2.0, warmup_steps=2, warmup_ratio=0.5, shape="constant") for step in range(6)]
    assert rates == [1.0, 1.5, 2.0, 2.0, 2.0, 2.0]
