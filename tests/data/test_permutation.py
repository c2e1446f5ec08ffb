"""The keyed bijections: each is a bijection, none has changed, and none correlates with its key.

python -m pytest tests/data/test_permutation.py
"""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tst_data.plan.permutation import FEISTEL_MINIMUM, Key, derive_key, permute


def key(seed: int, **names: int) -> Key:
    return derive_key("test", seed=seed, **names)


@given(num_elements=st.integers(1, 5000), seed=st.integers(0, 2**64 - 1))
def test_is_a_bijection(num_elements: int, seed: int) -> None:
    images = permute(np.arange(num_elements), num_elements, key(seed))
    assert np.array_equal(np.sort(images), np.arange(num_elements))


@given(
    num_elements=st.integers(1, 2**62),
    seed=st.integers(0, 2**64 - 1),
    data=st.data(),
)
def test_an_image_does_not_depend_on_the_other_indexes(num_elements: int, seed: int, data: st.DataObject) -> None:
    # 1,024 indexes sort a hash of all elements, so they are drawn below that size or far above it.
    indexes = np.array(data.draw(st.lists(st.integers(0, num_elements - 1), min_size=1, max_size=20)))
    together = permute(indexes, num_elements, key(seed))
    alone = [int(permute(indexes[i : i + 1], num_elements, key(seed))[0]) for i in range(len(indexes))]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < num_elements)).all()


def test_golden_vectors() -> None:
    """Pin the order: a change here changes each batch of each run, so it needs a new ORDER_VERSION."""
    assert derive_key("windows", seed=17, dataset=1, epoch=2, phase=3, index=4)[:2] == GOLDEN_KEY
    for num_elements, expected in GOLDEN_IMAGES.items():
        indexes = np.arange(8) * (num_elements // 8)
        assert permute(indexes, num_elements, key(17)).tolist() == expected, num_elements


GOLDEN_KEY = (9610485714097422372, 1246514506054965396)
GOLDEN_IMAGES: dict[int, list[int]] = {
    8: [2, 7, 4, 1, 0, 3, 5, 6],
    1000: [22, 44, 383, 560, 750, 584, 943, 13],
    1024: [615, 308, 881, 356, 93, 159, 200, 198],
    1025: [658, 12, 881, 19, 93, 56, 342, 664],
    100000: [51779, 13225, 63744, 21983, 8696, 53817, 19276, 23787],
    1000000000000: [
        735787491328,
        36510691748,
        336782233918,
        818512316562,
        741722573946,
        178298657233,
        375394724615,
        574317595026,
    ],
}


@pytest.mark.parametrize("name", ["seed", "dataset", "epoch", "phase", "index"])
def test_every_part_of_a_key_counts(name: str) -> None:
    parts = {"seed": 1, "dataset": 1, "epoch": 1, "phase": 1, "index": 1}
    assert derive_key("a", **parts) != derive_key("a", **{**parts, name: 2})
    assert derive_key("a", **parts) != derive_key("b", **parts)


@pytest.mark.slow
@pytest.mark.parametrize("num_elements", range(2, 41))
def test_small_domains_are_uniform(num_elements: int) -> None:
    """Chi-squared per degree of freedom of (index, image) over keys, as the mean of ten samples.

    The cells of a permutation matrix depend on each other, so a sample's mean is n(n-1) and not the (n-1)^2 of free
    margins. One sample alone could miss the threshold by chance at n = 2, where it has a single degree of freedom.
    """
    num_keys, num_samples = 10 * num_elements, 10
    expected = num_keys / num_elements
    chi_squared = 0.0
    for sample in range(num_samples):
        counts = np.zeros((num_elements, num_elements))
        for seed in range(num_keys):
            images = permute(np.arange(num_elements), num_elements, key(seed, epoch=sample))
            counts[np.arange(num_elements), images] += 1
        chi_squared += ((counts - expected) ** 2 / expected).sum()
    assert chi_squared / (num_samples * num_elements * (num_elements - 1)) < 2


@pytest.mark.parametrize("num_elements", [3, 4, 5])
def test_every_order_of_a_few_elements_is_as_likely(num_elements: int) -> None:
    orders = list(permutations(range(num_elements)))
    num_keys = 60 * len(orders)
    seen = Counter(
        tuple(permute(np.arange(num_elements), num_elements, key(seed)).tolist()) for seed in range(num_keys)
    )
    chi_squared = sum((seen[order] - 60) ** 2 / 60 for order in orders)
    assert chi_squared / (len(orders) - 1) < 2


@pytest.mark.slow
@pytest.mark.parametrize("bits", [10, 11, 13, 17, 24, 33])
def test_bits_do_not_correlate(bits: int) -> None:
    """No bit of an image correlates with a bit of its index, its neighbor's image, or the next epoch's: 5 sigma."""
    num_elements = 1 << bits
    assert num_elements >= FEISTEL_MINIMUM
    num_samples = min(num_elements, 1 << 16)
    step = num_elements // num_samples
    indexes = np.arange(num_samples) * step
    images = _bits(permute(indexes, num_elements, key(3, epoch=0)), bits)
    others = {
        "index": _bits(indexes, bits)[:, np.ptp(_bits(indexes, bits), axis=0) > 0],
        "neighbor": _bits(permute((indexes + 1) % num_elements, num_elements, key(3, epoch=0)), bits),
        "next epoch": _bits(permute(indexes, num_elements, key(3, epoch=1)), bits),
    }
    for name, other in others.items():
        correlation = np.corrcoef(images.T, other.T)[:bits, bits:]
        assert np.abs(correlation).max() * np.sqrt(num_samples) < 5, name


def _bits(values: NDArray[np.int64], bits: int) -> NDArray[np.float64]:
    return np.array((values[:, None] >> np.arange(bits)) & 1, dtype=float)
