"""SIGTERM and Ctrl-C end a training after the step at hand, with a checkpoint; the second one at once.

A step that waits for its batch, which may be minutes while a server is away, is given up instead.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tst_data.errors import TSTError

__all__ = ["StopRequest", "StoppedError", "WaitingEndedError", "stop_on_signal"]


class StoppedError(TSTError):
    """A training that was asked to stop before its end, and can be gone on with."""


class WaitingEndedError(Exception):
    """Raised in the midst of what was waited for."""


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.wanted = False
        self._waiting = False

    @contextmanager
    def ending_the_wait(self) -> Iterator[None]:
        """A block that a request ends with WaitingEndedError."""
        self._waiting = True
        try:
            if self.wanted:
                raise WaitingEndedError
            yield
        finally:
            self._waiting = False

    def make(self) -> None:
        self.wanted = True
        if self._waiting:
            self._waiting = False
            raise WaitingEndedError


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """A request that signals make, where this is the main thread; handlers are put back at the end."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in signals}

    def handle(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, before[each])
        request.make()

    for number in signals:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number in signals:
            signal.signal(number, before[number])
