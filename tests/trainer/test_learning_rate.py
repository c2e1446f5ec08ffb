"""The learning rate as a function of the step. python -m pytest tests/trainer/test_learning_rate.py"""

from __future__ import annotations

import pytest

from trainer_client.trainer.learning_rate import default_warmup_steps, learning_rate_factor


def test_schedule_is_one_warm_up_one_plateau_and_one_decay_over_all_steps() -> None:
    factors = [learning_rate_factor(step, total_steps=100, warmup_steps=10, decay_fraction=0.2) for step in range(100)]
    assert factors[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert factors[10:81] == [1.0] * 71
    assert factors[80:] == [pytest.approx((100 - step) / 20) for step in range(80, 100)]
    assert [default_warmup_steps(steps) for steps in (40, 20_000, 100_000)] == [4, 2_000, 2_000]
    flat = [learning_rate_factor(step, total_steps=5, warmup_steps=0, decay_fraction=0) for step in range(5)]
    assert flat == [1.0] * 5
