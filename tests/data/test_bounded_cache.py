"""The cache keeps what was used last, and no more than its limit. python -m pytest tests/data/test_bounded_cache.py"""

from __future__ import annotations

import threading

import pytest

from tst_data.dataset.bounded_cache import BoundedCache


def test_the_value_that_was_not_used_for_the_longest_time_goes_first() -> None:
    cache = BoundedCache[str, str](2)
    made: list[str] = []

    def get(key: str) -> str:
        return cache.get(key, lambda: made.append(key) or key.upper())  # type: ignore[func-returns-value]

    assert [get(key) for key in "abacab"] == list("ABACAB")
    assert made == ["a", "b", "c", "b"]
    assert len(cache) == 2


def test_a_limit_below_one_keeps_one() -> None:
    cache = BoundedCache[int, int](0)
    for key in (1, 2):
        cache.get(key, lambda: 0)
    assert len(cache) == 1


def test_dropping_lets_go_of_some_keys_only() -> None:
    cache = BoundedCache[tuple[int, int], str](9)
    for key in ((1, 0), (1, 5), (2, 0)):
        cache.get(key, lambda: "old")
    cache.drop(lambda key: key[0] == 1)
    assert [cache.get(key, lambda: "new") for key in ((1, 0), (1, 5), (2, 0))] == ["new", "new", "old"]


def test_a_value_that_cannot_be_made_leaves_nothing() -> None:
    cache = BoundedCache[int, int](1)
    with pytest.raises(ZeroDivisionError):
        cache.get(1, lambda: 1 // 0)
    assert cache.get(1, lambda: 2) == 2


def test_a_slow_value_does_not_stop_others() -> None:
    cache = BoundedCache[str, str](2)
    begun, go = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert go.wait(60)
        return "slow"

    thread = threading.Thread(target=cache.get, args=("slow", slow))
    thread.start()
    assert begun.wait(60)
    assert cache.get("quick", lambda: "quick") == "quick"
    go.set()
    thread.join(60)
    assert cache.get("slow", lambda: "made again") == "slow"
