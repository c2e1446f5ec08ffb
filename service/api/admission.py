"""Bounded work: how many batch requests a worker process holds, and how many batches it builds at the same time.

A request keeps its place from its admission until the kernel has its last byte, so neither a queue nor slow clients
can make memory grow. When all places are taken, the response is 503 with Retry-After: it is better for a client to ask
again in a second than to wait in a queue of unknown length. Batches are built in threads. Gathering, hashing and
copying release the interpreter's lock, so the event loop can send other batches at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from service.api.problems import OverloadedError
from tst_data.errors import UnavailableError

__all__ = ["Admission"]

Result = TypeVar("Result")


class Admission:
    """The places and the builder threads of one worker process."""

    def __init__(self, *, builders: int, max_requests: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=builders, thread_name_prefix="builder")
        self._max_requests = max_requests
        self._taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one place for a request. For the event loop's thread only. Raises OverloadedError when none is free."""
        if self._taken >= self._max_requests:
            raise OverloadedError(
                f"server: all {self._max_requests} places of this worker process are taken; ask again in a moment, or "
                "start more workers"
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def build(self, work: Callable[[], Result]) -> Result:
        """Do blocking work in a builder thread. Work waits in the order in which it came.

        Raises what the work raises, and UnavailableError where memory does not suffice for it.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except MemoryError:
            raise UnavailableError(
                "server: has too little memory for this request; ask again in a moment, lower --max-requests, or give "
                "this machine more memory"
            ) from None

    def close(self) -> None:
        """Drop the work that waits. Work that has begun runs to its end."""
        self._executor.shutdown(wait=False, cancel_futures=True)
