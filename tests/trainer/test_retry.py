"""Trying again until it works, is refused, or time is up. python -m pytest tests/trainer/test_retry.py"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from tenacity import Retrying

from trainer_client.stream.retry import LARGEST_SECONDS, retrying


class BusyError(Exception):
    def __init__(self, retry_after_seconds: float | None = None) -> None:
        super().__init__("busy")
        self.retry_after_seconds = retry_after_seconds


class Recorded(threading.Event):
    """An event that records the seconds of each wait, and whose waits take no time."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        return False


def policy(
    stop: threading.Event,
    *,
    timeout_seconds: float = 3600,
    on_wait: Callable[[BaseException], None] = lambda error: None,
) -> Retrying:
    return retrying(
        timeout_seconds=timeout_seconds,
        stop=stop,
        worth_another_try=lambda error: isinstance(error, BusyError),
        before_wait=on_wait,
    )


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = iter(range(times))

    def call() -> str:
        if next(left, None) is not None:
            raise error
        return "done"

    return call


def test_a_result_is_returned_after_failures_and_each_is_reported() -> None:
    reported: list[BaseException] = []
    assert policy(Recorded(), on_wait=reported.append)(failing(3, BusyError())) == "done"
    assert len(reported) == 3


def test_other_errors_are_raised_at_once() -> None:
    stop = Recorded()
    with pytest.raises(KeyError):
        policy(stop)(failing(1, KeyError("x")))
    assert stop.waits == []


def test_waits_are_drawn_below_a_growing_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    stop = Recorded()
    policy(stop)(failing(9, BusyError()))
    assert stop.waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, *[LARGEST_SECONDS] * 3]


def test_retry_after_is_a_least_wait() -> None:
    stop = Recorded()
    policy(stop)(failing(1, BusyError(60)))
    assert 60 <= stop.waits[0] <= 60.1


def test_a_wait_ends_at_once_when_stopped() -> None:
    stop = threading.Event()
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    with pytest.raises(BusyError):
        policy(stop)(failing(5, BusyError(3600)))
    timer.join()


def test_one_last_try_is_made_just_before_the_deadline() -> None:
    begin = time.monotonic()
    tries: list[float] = []

    def call() -> None:
        tries.append(time.monotonic() - begin)
        raise BusyError(3600)

    with pytest.raises(BusyError):
        policy(threading.Event(), timeout_seconds=0.5)(call)
    assert len(tries) >= 2
    assert tries[-1] >= 0.35
