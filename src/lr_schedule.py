"""Learning rate: linear warm-up, then cosine decay to zero at the last step."""

import math


def learning_rate(step: int, total_steps: int, base_lr: float, warmup_steps: int = 0,
                  warmup_ratio: float = 0.0) -> float:
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

    Raises:
        ValueError: step outside the run.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step: found {step}, expected 0 to {total_steps - 1}")
    if step < warmup_steps:
        return base_lr * (warmup_ratio + (1 - warmup_ratio) * step / warmup_steps)
    decay_steps = total_steps - 1 - warmup_steps
    if decay_steps <= 0:
        return base_lr
    return base_lr * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / decay_steps))
