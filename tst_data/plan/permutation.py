"""Keyed bijections of [0, n), computed per index: no table, no state, no generator stream.

A table that shuffles 100M windows costs 0.8 GB and 20 s for each epoch. Here element 70,000,000 costs as much as
element 0: about half a millisecond for 4,096 of them. From FEISTEL_MINIMUM elements on, it is an alternating Feistel
network on the bits of n-1 with cycle walking (its domain is below 2n, so an index takes fewer than two walks on
average), and each round mixes with a finalizer of full avalanche. Small Feistel networks are biased, so below that size
keyed hashes are sorted instead.

Everything is defined on 64-bit unsigned integers in this file alone. numpy does not promise the streams of its
`Generator` across versions, so none is used. Golden vectors in the tests pin the order. To change one byte of it, raise
ORDER_VERSION, which is part of each run's fingerprint.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_data.contract.description import ORDER_VERSION

__all__ = ["FEISTEL_MINIMUM", "Key", "derive_key", "permute"]

FEISTEL_MINIMUM = 1024
NUM_ROUNDS = 8

Key = tuple[int, ...]
"""One 64-bit integer for each round."""

# Finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)


def derive_key(purpose: str, *, seed: int, dataset: int = 0, epoch: int = 0, phase: int = 0, index: int = 0) -> Key:
    """Round keys for one purpose: a hash of everything that names it, so that no two uses share a key by accident."""
    text = f"tst-order {ORDER_VERSION} {purpose} {seed} {dataset} {epoch} {phase} {index}"
    digest = hashlib.blake2b(text.encode(), digest_size=8 * NUM_ROUNDS).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "little") for i in range(0, len(digest), 8))


def permute(indexes: NDArray[np.integer[Any]], num_elements: int, key: Key) -> NDArray[np.int64]:
    """The images of `indexes` (each in [0, num_elements)) under the bijection of that key."""
    if num_elements < FEISTEL_MINIMUM:
        images: NDArray[np.int64] = _sorted_hashes(num_elements, key)[indexes]
        return images
    bits = (num_elements - 1).bit_length()
    limit = np.uint64(num_elements)
    values = _feistel(indexes.astype(np.uint64), bits, key)
    # Cycle walking: an image outside the range is mapped again, until it is inside.
    outside = np.flatnonzero(values >= limit)
    while outside.size:
        walked = _feistel(values[outside], bits, key)
        values[outside] = walked
        outside = outside[walked >= limit]
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], bits: int, key: Key) -> NDArray[np.uint64]:
    right_bits = np.uint64(bits // 2)
    left_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    right_mask = np.uint64((1 << (bits // 2)) - 1)
    left, right = values >> right_bits, values & right_mask
    for i in range(0, NUM_ROUNDS, 2):
        left ^= _mix(right, key[i]) & left_mask
        right ^= _mix(left, key[i + 1]) & right_mask
    return (left << right_bits) | right


def _mix(values: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    mixed = values + np.uint64(key)
    mixed ^= mixed >> _SHIFT_30
    mixed *= _MULTIPLIER_1
    mixed ^= mixed >> _SHIFT_27
    mixed *= _MULTIPLIER_2
    mixed ^= mixed >> _SHIFT_31
    return mixed


@lru_cache(maxsize=1024)
def _sorted_hashes(num_elements: int, key: Key) -> NDArray[np.int64]:
    hashes = _mix(_mix(np.arange(num_elements, dtype=np.uint64), key[0]), key[1])
    order = np.argsort(hashes, kind="stable")
    order.setflags(write=False)
    return order
