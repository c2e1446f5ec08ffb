"""Trying again with tenacity: backoff with full jitter, the server's Retry-After, a deadline, and a stop at any moment.

tenacity and not stamina, because a background thread must be able to stop during a wait (`sleep_using_event`); stamina
sleeps until a Retry-After of minutes is over. All ranks of a trainer meet a restarted server at the same time. Full
jitter (each wait is drawn between 0 and the bound) spreads their requests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

__all__ = ["retrying"]

INITIAL_SECONDS = 0.1
LARGEST_SECONDS = 5.0


def retrying(
    *,
    timeout_seconds: float,
    stop: threading.Event,
    worth_another_try: Callable[[BaseException], bool],
    before_wait: Callable[[BaseException], None],
) -> Retrying:
    """Calls a function until it returns, until it raises an error that is not worth another try, or until time is up.

    An error may carry `retry_after_seconds`; then the wait is at least that long. A wait is cut to the time that is
    left, so that the last try is made just before the deadline.
    """
    deadline = time.monotonic() + timeout_seconds
    backoff = wait_random_exponential(multiplier=INITIAL_SECONDS, max=LARGEST_SECONDS)

    def wait(state: RetryCallState) -> float:
        asked_seconds: float = getattr(_error(state), "retry_after_seconds", None) or 0.0
        remaining = deadline - time.monotonic()
        last_try = max(remaining - INITIAL_SECONDS, remaining / 2, 0.0)
        return min(asked_seconds + backoff(state), last_try)

    return Retrying(
        retry=retry_if_exception(worth_another_try),
        wait=wait,
        stop=stop_after_delay(timeout_seconds - INITIAL_SECONDS / 2) | stop_when_event_set(stop),
        sleep=sleep_using_event(stop),
        before_sleep=lambda state: before_wait(_error(state)),
        reraise=True,
    )


def _error(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    assert error is not None, "only an error is tried again"
    return error
