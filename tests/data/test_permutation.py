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


GOLDEN_KEY = (232477535998782976, 13838714205887462755)
GOLDEN_IMAGES: dict[int, list[int]] = {
    8: [6, 2, 3, 4, 1, 0, 7, 5],
    1000: [309, 796, 430, 518, 704, 572, 155, 554],
    1024: [87, 51, 254, 864, 239, 341, 237, 166],
    1025: [645, 991, 711, 727, 321, 77, 30, 419],
    100000: [16442, 34154, 61016, 50030, 85548, 2126, 61808, 87305],
    1000000000000: [
        96156903957,
        558745023519,
        206821376737,
        640339278273,
        787937996178,
        853485039512,
        170545143173,
        95949540465,
    ],
}


def defined_image(index: int, num_elements: int, key: Key) -> int:
    """The image of one index, from the definition in the module, with Python's integers."""

    def mix(value: int, round_key: int) -> int:
        value = (value + round_key) % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    if num_elements < FEISTEL_MINIMUM:
        hashes = [mix(mix(element, key[0]), key[1]) for element in range(num_elements)]
        return sorted(range(num_elements), key=lambda element: hashes[element])[index]
    bits = (num_elements - 1).bit_length()
    low = bits // 2
    while True:
        left, right = index >> low, index % 2**low
        for i in range(0, len(key), 2):
            left ^= mix(right, key[i]) % 2 ** (bits - low)
            right ^= mix(left, key[i + 1]) % 2**low
        index = (left << low) + right
        if index < num_elements:
            return index


@pytest.mark.parametrize("num_elements", GOLDEN_IMAGES)
def test_golden_vectors_are_those_of_the_definition(num_elements: int) -> None:
    images = [defined_image(index * (num_elements // 8), num_elements, key(17)) for index in range(8)]
    assert images == GOLDEN_IMAGES[num_elements]


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
