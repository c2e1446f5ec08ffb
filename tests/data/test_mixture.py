"""The mixture: exact counts per thousand, evenly spread. python -m pytest tests/data/test_mixture.py"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_data.errors import InvalidInputError
from tst_data.plan.mixture import Mixture
from tst_data.run.weights import PATTERN_LENGTH, thousandths


@st.composite
def shares(draw: st.DrawFn) -> tuple[int, ...]:
    """Whole thousandths summing to 1,000, with zeros among them."""
    num_datasets = draw(st.integers(1, 12))
    cuts = sorted(draw(st.lists(st.integers(0, 1000), min_size=num_datasets - 1, max_size=num_datasets - 1)))
    return tuple(np.diff([0, *cuts, 1000]).tolist())


@given(counts=shares(), first=st.integers(0, 10**12), length=st.integers(0, 3000))
def test_counts_and_places_agree(counts: tuple[int, ...], first: int, length: int) -> None:
    mixture = Mixture(counts)
    drawn = np.bincount(mixture.datasets(first, length), minlength=len(counts))
    assert np.array_equal(mixture.taken(first + length) - mixture.taken(first), drawn)


@given(counts=shares(), first=st.integers(0, 10**6))
def test_every_thousand_windows_hold_exactly_the_shares(counts: tuple[int, ...], first: int) -> None:
    drawn = np.bincount(Mixture(counts).datasets(first, PATTERN_LENGTH), minlength=len(counts))
    assert drawn.tolist() == list(counts)


@given(counts=shares())
def test_every_prefix_is_within_one(counts: tuple[int, ...]) -> None:
    mixture = Mixture(counts)
    for length in range(PATTERN_LENGTH + 1):
        taken = mixture.taken(length)
        assert (taken >= 0).all()
        assert (np.abs(taken * PATTERN_LENGTH - length * np.array(counts)) <= PATTERN_LENGTH).all()


@given(weights=st.lists(st.floats(0.001, 1000), min_size=1, max_size=20))
def test_thousandths_sum_up_and_stay_within_one(weights: list[float]) -> None:
    try:
        counts = thousandths(weights)
    except InvalidInputError:
        assert min(weights) / sum(weights) < 0.001
        return
    assert sum(counts) == PATTERN_LENGTH
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count - 1000 * weight / sum(weights)) < 1
        assert count > 0


def test_a_scale_does_not_matter() -> None:
    assert thousandths([1, 1, 1]) == thousandths([7, 7, 7]) == (334, 333, 333)
    assert thousandths([0, 5]) == (0, 1000)


def test_a_weight_that_would_vanish_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"0.0001 is under half a thousandth"):
        thousandths([1, 0.0001])
