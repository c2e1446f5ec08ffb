"""Ordered read-ahead and its waits, without batches or sockets. python -m pytest tests/trainer/test_prefetch.py"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_client.stream.prefetch import Prefetcher
from tst_data.errors import InvalidInputError

END = 30


class Reader:
    def __init__(self) -> None:
        self.aborted = threading.Event()
        self.closed = False

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        self.closed = True


def prefetcher(fetch: Callable[[Reader, int], int], *, depth: int, num_threads: int) -> Prefetcher[Reader, int]:
    return Prefetcher(Reader, fetch, end=END, depth=depth, num_threads=num_threads)


@settings(deadline=None, max_examples=50)
@given(
    positions=st.lists(st.integers(0, END - 1), max_size=30),
    depth=st.integers(1, 5),
    num_threads=st.integers(1, 4),
)
def test_any_position_may_be_taken(positions: list[int], depth: int, num_threads: int) -> None:
    ahead = prefetcher(lambda _, position: position * position, depth=depth, num_threads=num_threads)
    try:
        for position in positions:
            assert ahead.take(position) == position * position
    finally:
        ahead.close()


def test_no_more_than_depth_is_fetched_ahead_and_nothing_twice() -> None:
    fetched: list[int] = []
    furthest = threading.Semaphore(0)

    def fetch(_: Reader, position: int) -> int:
        fetched.append(position)
        furthest.release()
        return position

    ahead = prefetcher(fetch, depth=3, num_threads=2)
    try:
        for taken in range(END):
            assert ahead.take(taken) == taken
            assert max(fetched) <= taken + 3
        assert sorted(fetched) == list(range(END))
    finally:
        ahead.close()


def test_an_error_waits_for_its_turn_and_may_be_tried_again() -> None:
    failing = {2}

    def fetch(_: Reader, position: int) -> int:
        if position in failing:
            raise ValueError(f"position {position}")
        return position

    ahead = prefetcher(fetch, depth=5, num_threads=3)
    try:
        assert [ahead.take(0), ahead.take(1)] == [0, 1]
        for _ in range(2):
            with pytest.raises(ValueError, match="position 2"):
                ahead.take(2)
        failing.clear()
        assert [ahead.take(position) for position in range(2, END)] == list(range(2, END))
    finally:
        ahead.close()


def test_close_cuts_a_read_off_and_wakes_the_consumer() -> None:
    readers: list[Reader] = []
    reading = threading.Event()

    def fetch(reader: Reader, position: int) -> int:
        readers.append(reader)
        reading.set()
        reader.aborted.wait(30)
        return position

    ahead = prefetcher(fetch, depth=1, num_threads=1)

    def close_in_mid_read() -> None:
        reading.wait(30)
        ahead.close()

    closer = threading.Thread(target=close_in_mid_read)
    closer.start()
    try:
        with pytest.raises(InvalidInputError, match="closed"):
            ahead.take(0)
    finally:
        closer.join()
    assert len(readers) == 1
    assert readers[0].closed
