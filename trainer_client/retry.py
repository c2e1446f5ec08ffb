"""Trying again: exponential backoff with jitter, a server's Retry-After, and a deadline.

Written out rather than taken from a library because a background thread must be able to stop in mid-wait: `stop`
ends any wait at once, where stamina and tenacity sleep through it (up to a Retry-After of minutes), and stamina
reports each retry through process-wide hooks that print to standard output in some set-ups.

A trainer of many ranks meets a restarted server all at once; full jitter (a wait drawn from 0 to the bound)
spreads them.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass
class Backoff:
    """The waits of one operation that is tried until `deadline` (of `time.monotonic`)."""

    deadline: float
    stop: threading.Event
    initial_seconds: float = 0.1
    largest_seconds: float = 5.0
    num_waits: int = 0

    @property
    def remaining_seconds(self) -> float:
        """Time left until the deadline; negative behind it."""
        return self.deadline - time.monotonic()

    def wait(self, asked_seconds: float | None = None) -> bool:
        """Wait before the next try: what the server asked for, else the backoff. False if there must be none.

        A wait is cut to what is left, so that one last try is made just before the deadline.
        """
        remaining = self.remaining_seconds
        if remaining <= self.initial_seconds / 2 or self.stop.is_set():
            return False
        bound = min(self.largest_seconds, self.initial_seconds * 2 ** min(self.num_waits, 30))
        self.num_waits += 1
        jitter = random.uniform(0, bound)
        seconds = jitter if asked_seconds is None else asked_seconds + jitter
        last_try = max(remaining - self.initial_seconds, remaining / 2)
        return not self.stop.wait(min(seconds, last_try))
