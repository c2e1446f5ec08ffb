"""Warmup-stable-decay: one schedule over all steps of a run, which knows nothing of phases.

A pure function of the step, so that there is no state to reset at the switch or to lose in a restart.
"""

from __future__ import annotations

__all__ = ["WARMUP_STEPS", "default_warmup_steps", "learning_rate_factor"]

WARMUP_STEPS = 2_000
"""Steps of warm-up in the paper's runs of 20,000 steps and more."""


def default_warmup_steps(total_steps: int) -> int:
    """The paper's 2,000 steps, in a short run a tenth of it."""
    return min(WARMUP_STEPS, total_steps // 10)


def learning_rate_factor(step: int, *, total_steps: int, warmup_steps: int, decay_fraction: float) -> float:
    """What the peak learning rate is multiplied with in `step` (from 0): up linearly, 1, down linearly to 1/decay."""
    decay_steps = round(decay_fraction * total_steps)
    rising = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    falling = (total_steps - step) / decay_steps if step > total_steps - decay_steps else 1.0
    return min(rising, falling)
