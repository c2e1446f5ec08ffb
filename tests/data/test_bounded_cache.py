"""The cache keeps what was used last, and no more than its limit. python -m pytest tests/data/test_bounded_cache.py"""

from __future__ import annotations

import os
import signal
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


def test_a_finalizer_does_not_wait_for_a_thread_that_uses_the_cache() -> None:
    cache = BoundedCache[tuple[int, int], str](9)
    for key in ((1, 0), (2, 0), (3, 0)):
        cache.get(key, lambda: "old")
    inside, go = threading.Event(), threading.Event()

    def slow(key: tuple[int, int]) -> bool:
        inside.set()
        assert go.wait(60)
        return key[0] == 2

    thread = threading.Thread(target=cache.drop, args=(slow,))
    thread.start()
    assert inside.wait(60)
    finalizer = threading.Thread(target=cache.drop_soon, args=(lambda key: key[0] == 1,))
    finalizer.start()
    finalizer.join(60)
    assert not finalizer.is_alive()
    go.set()
    thread.join(60)
    assert len(cache) == 1, "the thread that used the cache dropped both"


def test_a_finalizer_may_run_in_the_thread_that_uses_the_cache() -> None:
    cache = BoundedCache[int, str](9)
    for key in range(3):
        cache.get(key, lambda: "old")

    def collected(key: int) -> bool:
        cache.drop_soon(lambda other: other == 1)
        return key == 2

    thread = threading.Thread(target=cache.drop, args=(collected,), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert len(cache) == 1


def test_a_value_that_ends_may_use_the_cache() -> None:
    class Value:
        def __del__(self) -> None:
            cache.drop(lambda key: key == 5)

    cache = BoundedCache[int, Value | int](2)
    for key in (1, 5, 2, 3):
        cache.get(key, lambda: Value())
    thread = threading.Thread(target=cache.drop, args=(lambda key: True,), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert not len(cache)


def test_a_child_of_a_fork_can_use_it_whatever_other_threads_did() -> None:
    cache = BoundedCache[int, int](2)
    cache.get(1, lambda: 1)
    with cache._lock:  # as another thread that is inside
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if cache.get(1, lambda: 2) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


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
