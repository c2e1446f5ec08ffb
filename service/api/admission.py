"""Bounded work: how many batch requests a worker holds, and how many of them it builds at once.

A request is held from its admission until its last byte is with the kernel, so neither a queue nor slow clients can
make memory grow. Past the bound the answer is 503 with Retry-After: a client that comes back in a second is better
off than one in a queue of unknown length. Building runs in threads: gathering, hashing and copying release the
interpreter's lock, and the event loop goes on sending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from tst_data.errors import UnavailableError

__all__ = ["Gate"]

Result = TypeVar("Result")


class Gate:
    """Admission to the builders of one worker process."""

    def __init__(self, *, builders: int, max_requests: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=builders, thread_name_prefix="builder")
        self._max_requests = max_requests
        self._held = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold one place for a request; UnavailableError when all are taken. Called on the event loop only."""
        if self._held >= self._max_requests:
            raise UnavailableError(
                f"all {self._max_requests} places of this worker are taken; ask again, or start more workers"
            )
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do blocking work in a builder thread, in the order of arrival."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Forget what waits; what is being built ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)
