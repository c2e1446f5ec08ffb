"""Warmup-stable-decay: one schedule over all steps of a run, which knows nothing about phases.

It is a pure function of the step, so there is no state that the switch could reset or a restart could lose.
"""

from __future__ import annotations

__all__ = ["WARMUP_STEPS", "default_warmup_steps", "learning_rate_factor"]

WARMUP_STEPS = 2_000
"""Warm-up steps in the paper's runs of 20,000 steps and more."""


def default_warmup_steps(total_steps: int) -> int:
    """The paper's 2,000 steps; in a run of less than 20,000 steps a tenth of them."""
    return min(WARMUP_STEPS, total_steps // 10)


def learning_rate_factor(step: int, *, total_steps: int, warmup_steps: int, decay_fraction: float) -> float:
    """The factor of the peak learning rate in `step`, counted from 0.

    It rises linearly to 1, stays there, and falls linearly to 1 / (number of decay steps) in the last step.
    """
    decay_steps = round(decay_fraction * total_steps)
    rising = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    falling = (total_steps - step) / decay_steps if step > total_steps - decay_steps else 1.0
    return min(rising, falling)
