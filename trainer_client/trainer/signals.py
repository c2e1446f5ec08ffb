"""SIGTERM and Ctrl-C end a training after the current step, with a checkpoint. A second signal ends it at once.

A step that is waiting for its batch is abandoned instead, because that can take minutes while a server is away.
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
    """A training that a signal stopped before its end. The same command resumes it."""


class WaitingEndedError(Exception):
    """Raised inside a wait that a signal ended."""


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.wanted = False
        self._waiting = False

    @contextmanager
    def ending_the_wait(self) -> Iterator[None]:
        """A block of code in which a request raises WaitingEndedError."""
        self._waiting = True
        try:
            if self.wanted:
                raise WaitingEndedError
            yield
        finally:
            self._waiting = False

    def make(self) -> None:
        """Ask this process to stop."""
        self.wanted = True
        if self._waiting:
            self._waiting = False
            raise WaitingEndedError


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """A request that signals make, if this is the main thread. The previous handlers are restored at the end."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in signals}

    def handle(number: int, frame: FrameType | None) -> None:
        for each in signals:  # so that a second signal ends the process at once
            signal.signal(each, before[each])
        request.make()

    for number in signals:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number in signals:
            signal.signal(number, before[number])
