"""Learning rate: linear warm-up, then cosine decay to zero at the last step; and what several ranks change in it."""

import math

SCALING_RULES = ("none", "linear", "sqrt")


def learning_rate(step: int, total_steps: int, base_lr: float, warmup_steps: int = 0,
                  warmup_ratio: float = 0.0, shape: str = "cosine") -> float:
    """Return the rate of step `step`, a pure function, so that a resumed or extended run needs no schedule state.

    Linear from `warmup_ratio` * base at step 0 to base at step `warmup_steps`, then half a cosine (Loshchilov and
    Hutter, SGDR, 2017) that reaches 0 at the last step, `total_steps` - 1. A run that is not longer than its warm-up
    only warms up.

    Args:
        step: 0 to `total_steps` - 1.
        total_steps: number of steps of the whole run.
        base_lr: largest rate.
        warmup_steps: number of warm-up steps.
        warmup_ratio: share of the base rate that warm-up starts at.
        shape: after the warm-up, `cosine`, or `constant` at the base rate.

    Raises:
        ValueError: step outside the run.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step: found {step}, expected 0 to {total_steps - 1}")
    if step < warmup_steps:
        return base_lr * (warmup_ratio + (1 - warmup_ratio) * step / warmup_steps)
    decay_steps = total_steps - 1 - warmup_steps
    if decay_steps <= 0 or shape == "constant":
        return base_lr
    return base_lr * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / decay_steps))


def scale_for_ranks(rule: str, ranks: int, base_lr: float, warmup_steps: int,
                    warmup_ratio: float) -> tuple[float, int, float]:
    """Return base rate, warm-up steps and warm-up ratio for a global batch that is `ranks` times as large.

    `none` changes nothing. `linear` multiplies the base rate by the number of ranks (Goyal et al. 2017, "Accurate,
    Large Minibatch SGD"), `sqrt` by its square root (Krizhevsky 2014, "One weird trick"), which keeps the variance of
    the updates. Both warm up as Goyal et al. do, gradually: from the rate that one rank starts at, over as many samples
    as one rank's warm-up takes.

    Args:
        rule: one of `SCALING_RULES`.
        ranks: number of processes that train together.
        base_lr, warmup_steps, warmup_ratio: of one rank, see `learning_rate`.

    Raises:
        ValueError: unknown rule.
    """
    if rule not in SCALING_RULES:
        raise ValueError(f"lr_scaling: found {rule!r}, expected one of {', '.join(SCALING_RULES)}")
    if rule == "none":
        return base_lr, warmup_steps, warmup_ratio
    factor = ranks if rule == "linear" else math.sqrt(ranks)
    return base_lr * factor, -(-warmup_steps // ranks), warmup_ratio / factor
