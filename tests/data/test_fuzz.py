"""Random and damaged inputs raise nothing but our errors. python -m pytest tests/data/test_fuzz.py

A longer run: python -m tests.fuzz --inputs 200000
"""

from __future__ import annotations

import random

import pytest

from tests.fuzz.running import fuzz
from tests.fuzz.targets import TARGETS, targets

NUM_INPUTS = 1250
"""For each of the four targets."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_errors_is_raised(name: str) -> None:
    with targets() as made:
        counts = fuzz(made[name], NUM_INPUTS, number=random.randrange(1 << 30))
    assert counts.read > 10
    assert counts.refused > 100
