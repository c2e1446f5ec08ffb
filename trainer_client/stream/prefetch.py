"""Read-ahead in order: a few threads fetch positions `p, p + 1, ...`, and the consumer takes them in that order.

Positions are plain integers and `fetch` is any function of one, so this file knows nothing about batches. At most
`depth` positions are being fetched or waiting at the same time, which bounds memory. Each thread calls `open_reader`
once and reads with the result, so over HTTP each thread keeps its own connection and up to `depth` requests overlap.

An error of a fetch is kept at its position and raised when the consumer gets there, after everything before it. Taking
another position than the next one (after a seek or an error) drops what was fetched and starts at that position. The
threads are daemons and hold no reference to the consumer, so a dropped stream can be collected.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from tst_data.errors import InvalidInputError

__all__ = ["Prefetcher"]


class _Reader(Protocol):
    def abort(self) -> None: ...

    def close(self) -> None: ...


R = TypeVar("R", bound=_Reader)
T = TypeVar("T")

_JOIN_SECONDS = 5.0


class Prefetcher(Generic[R, T]):
    """Fetches up to `depth` (>= 1) positions ahead of the consumer, all below `end`, in `num_threads` threads."""

    def __init__(
        self,
        open_reader: Callable[[], R],
        fetch: Callable[[R, int], T],
        *,
        end: int,
        depth: int,
        num_threads: int,
    ) -> None:
        self._open_reader = open_reader
        self._fetch = fetch
        self._end = end
        self._depth = depth
        self._changed = threading.Condition()
        self._fetched: dict[int, tuple[T | None, BaseException | None]] = {}
        self._wanted = 0  # the position that the consumer takes next
        self._next = end  # the position that a thread fetches next; none until the consumer asks
        self._generation = 0  # counts restarts; a value fetched for an earlier one is dropped
        self._closed = False
        self._readers: list[R] = []
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-prefetch-{number}", daemon=True)
            for number in range(num_threads)
        ]
        self._started = False

    def take(self, position: int) -> T:
        """Wait for the value of `position`. Raises what its fetch raised."""
        with self._changed:
            if position != self._wanted or not self._started:
                self._restart(position)
            while position not in self._fetched:
                if self._closed:
                    raise InvalidInputError(
                        "stream: was closed during a wait for a batch; make a new BatchStream to continue"
                    )
                self._changed.wait()
            value, error = self._fetched.pop(position)
            self._wanted = position + 1
            self._changed.notify_all()
            if error is not None:
                self._wanted = -1  # the next call restarts at its own position
                raise error
            assert value is not None
            return value

    def close(self) -> None:
        """End the threads. A read that has begun is cut off."""
        with self._changed:
            self._closed = True
            self._fetched.clear()
            self._changed.notify_all()
            readers = list(self._readers)
        for reader in readers:
            reader.abort()
        for thread in self._threads:
            if self._started and thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)

    def _restart(self, position: int) -> None:
        self._generation += 1
        self._fetched.clear()
        self._wanted = self._next = position
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        reader: R | None = None
        while (ticket := self._ticket()) is not None:
            generation, position = ticket
            value, error = None, None
            try:
                if reader is None:
                    reader = self._reader()
                value = self._fetch(reader, position)
            except BaseException as caught:  # the consumer raises it
                error = caught
            with self._changed:
                if generation == self._generation and not self._closed:
                    self._fetched[position] = (value, error)
                    if error is not None:
                        self._next = self._end  # what comes after an error is not needed
                    self._changed.notify_all()
            value = error = None  # a reference kept here would keep the batch's memory in use
        if reader is not None:
            reader.close()

    def _reader(self) -> R:
        reader = self._open_reader()
        with self._changed:
            self._readers.append(reader)
            if self._closed:
                reader.abort()
        return reader

    def _ticket(self) -> tuple[int, int] | None:
        """Wait until there is room ahead, then give the generation and the position to fetch; None when closed."""
        with self._changed:
            while not self._closed:
                if self._next < min(self._end, self._wanted + self._depth):
                    position = self._next
                    self._next += 1
                    return self._generation, position
                self._changed.wait()
            return None
