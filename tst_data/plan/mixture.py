"""Which dataset each window of a phase comes from: a fixed pattern of 1,000, spread evenly.

Weights are rounded once per phase to thousandths, so the pattern repeats exactly and the count of any prefix is
arithmetic. Within it every prefix of k windows holds within 1 of k·share of each dataset. Rounding cumulative
shares independently can give negative counts; the pattern here is Tijdeman's solution of the chairman assignment
problem (The chairman assignment problem, Discrete Mathematics 32, 1980), which proves a deviation of at most
1 - 1/(2n-2) for n datasets. All arithmetic is on integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tst_data.errors import InvalidInputError

__all__ = ["PATTERN_LENGTH", "Mixture", "thousandths"]

PATTERN_LENGTH = 1000


def thousandths(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as whole thousandths of their sum, by largest remainder (ties to the earlier dataset).

    Raises InvalidInputError where a positive weight would become 0.
    """
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    shares = [weight * PATTERN_LENGTH / total for weight in exact]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for i in by_remainder[: PATTERN_LENGTH - sum(counts)]:
        counts[i] += 1
    for weight, count in zip(weights, counts, strict=True):
        if weight > 0 and count == 0:
            raise InvalidInputError(
                f"weight {weight:g} is under half a thousandth of the weights' sum {float(total):g} and would be "
                f"rounded to nothing; raise it to at least {float(total) / PATTERN_LENGTH:g} or set it to 0"
            )
    return tuple(counts)


class Mixture:
    """The windows of one phase shared out over datasets: window k -> dataset and its how-manieth window.

    `counts` are whole thousandths in dataset order, summing to PATTERN_LENGTH.
    """

    def __init__(self, counts: tuple[int, ...]) -> None:
        self.counts = counts
        self._pattern, self._before = _pattern(counts)

    def taken(self, num_windows: int) -> NDArray[np.int64]:
        """How many of the phase's first `num_windows` windows come from each dataset, shape (datasets,)."""
        rounds, rest = divmod(num_windows, PATTERN_LENGTH)
        return rounds * np.array(self.counts, dtype=np.int64) + self._before[rest]

    def datasets(self, first_window: int, num_windows: int) -> NDArray[np.int64]:
        """The dataset of each of a stretch of the phase's windows, shape (num_windows,)."""
        return self._pattern[np.arange(first_window, first_window + num_windows) % PATTERN_LENGTH]


@lru_cache(maxsize=64)
def _pattern(counts: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pattern, shape (1000,), and how many of each dataset stand before each place, (1001, datasets)."""
    slack = max(1, 2 * len(counts) - 2)
    taken = [0] * len(counts)
    pattern = np.zeros(PATTERN_LENGTH, dtype=np.int64)
    before = np.zeros((PATTERN_LENGTH + 1, len(counts)), dtype=np.int64)
    for place in range(1, PATTERN_LENGTH + 1):
        # A dataset may be drawn once it lags by 1/slack; of those, the one whose deadline comes first is.
        eligible = [
            i
            for i, count in enumerate(counts)
            if count and (count * place - PATTERN_LENGTH * taken[i]) * slack >= PATTERN_LENGTH
        ]
        chosen = min(eligible, key=lambda i: (Fraction((taken[i] + 1) * slack - 1, counts[i]), i))
        taken[chosen] += 1
        pattern[place - 1] = chosen
        before[place] = taken
    pattern.setflags(write=False)
    before.setflags(write=False)
    return pattern, before
