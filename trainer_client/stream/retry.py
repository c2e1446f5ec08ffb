"""Trying again, by tenacity: backoff with full jitter, a server's Retry-After, a deadline, and an end at any moment.

tenacity rather than stamina, because a background thread must be able to stop in mid-wait (`sleep_using_event`),
where stamina sleeps through a Retry-After of minutes. A trainer of many ranks meets a restarted server all at once;
full jitter (a wait drawn from 0 to the bound) spreads them.
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
    """Calls a function until it returns, raises what is not worth another try, or the time is over.

    An error may carry `retry_after_seconds`, which the wait is then at least. A wait is cut to what is left, so that
    one last try is made just before the deadline.
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
