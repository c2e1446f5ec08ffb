"""Which dataset each window of a phase comes from: a fixed pattern of 1,000, spread evenly.

Weights are rounded once per phase to thousandths, so the pattern repeats exactly, and how many windows of any prefix
come from each dataset is arithmetic. In a prefix of k windows each dataset has its share of k, to within 1. (Rounding
each share of k by itself and taking differences can give negative counts.) The pattern is Tijdeman's solution of the
chairman assignment problem (The chairman assignment problem, Discrete Mathematics 32, 1980), which proves a deviation
of at most 1 - 1/(2n-2) for n datasets with a share. All arithmetic is on integers.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tst_data.run.weights import PATTERN_LENGTH

__all__ = ["Mixture"]


class Mixture:
    """The windows of one phase shared out over datasets: the dataset of window k, and how many windows before it come
    from each dataset.

    `counts` are whole thousandths in dataset order, summing to PATTERN_LENGTH.
    """

    def __init__(self, counts: tuple[int, ...]) -> None:
        self.counts = counts
        self._pattern, self._before = _pattern(counts)

    def taken(self, num_windows: int) -> NDArray[np.int64]:
        """How many of the phase's first `num_windows` windows come from each dataset, shape (datasets,)."""
        rounds, rest = divmod(num_windows, PATTERN_LENGTH)
        taken: NDArray[np.int64] = rounds * np.array(self.counts, dtype=np.int64) + self._before[rest]
        return taken

    def datasets(self, first_window: int, num_windows: int) -> NDArray[np.int64]:
        """The dataset of each of `num_windows` windows of the phase, shape (num_windows,)."""
        datasets: NDArray[np.int64] = self._pattern[
            np.arange(first_window, first_window + num_windows) % PATTERN_LENGTH
        ]
        return datasets


@lru_cache(maxsize=64)
def _pattern(counts: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pattern, shape (1000,), and how many of each dataset come before each place, (1001, datasets)."""
    slack = max(1, 2 * sum(count > 0 for count in counts) - 2)  # a dataset without a share changes nothing
    taken = [0] * len(counts)
    pattern = np.zeros(PATTERN_LENGTH, dtype=np.int64)
    before = np.zeros((PATTERN_LENGTH + 1, len(counts)), dtype=np.int64)
    for place in range(1, PATTERN_LENGTH + 1):
        # A dataset may be chosen when it has 1/slack of a window less than its share. Of those, the one whose deadline
        # comes first is chosen.
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
