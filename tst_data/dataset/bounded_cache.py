"""A cache that keeps the values that were used last, and never more than a fixed number of them.

It holds what is slow to get and cheap to keep a few of: maps of shard files, row groups of the shard table, document
files. `functools.lru_cache` would do for one object, but it cannot be shared by several datasets, nor release the
values of one of them.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

__all__ = ["BoundedCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """At most `limit` values by key; the one that was not used for the longest time goes first.

    Safe to use from several threads, and in a child that was forked while another thread used it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = max(1, limit)
        self._lock = threading.Lock()
        self._values: OrderedDict[K, V] = OrderedDict()
        self._unwanted: deque[Callable[[K], bool]] = deque()
        """What is to be dropped by whoever holds the lock next."""
        _caches.add(self)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, made if it is not there. It stays valid for as long as the caller holds it.

        `make` runs outside the lock, so that a slow file does not stop readers of other files: two threads that miss
        the same key at the same time both make its value, and the later one is kept.
        """
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
        if found is not None:
            self._drop_unwanted()
            return found
        made = make()
        with self._lock:
            ended = [self._values.pop(key, made)]  # what is released ends after the lock is
            self._values[key] = made
            while len(self._values) > self.limit:
                ended.append(self._values.popitem(last=False)[1])
        self._drop_unwanted()
        return made

    def drop(self, unwanted: Callable[[K], bool]) -> None:
        """Release the values whose keys are unwanted."""
        with self._lock:
            ended = self._remove(unwanted)
        self._drop_unwanted()
        del ended  # they end here, outside the lock

    def drop_soon(self, unwanted: Callable[[K], bool]) -> None:
        """As `drop`, for finalizers: waits for nothing.

        The collector may run a finalizer at any place, also in a thread that holds the lock, or that another thread
        with the lock waits for. If the lock is held, the values are released by whoever holds it.
        """
        self._unwanted.append(unwanted)
        self._drop_unwanted()

    def _drop_unwanted(self) -> None:
        """Do what `drop_soon` was asked for, unless a thread has the lock: it will, when it has released it."""
        ended: list[V] = []
        while self._unwanted and self._lock.acquire(blocking=False):
            try:
                while self._unwanted:
                    ended += self._remove(self._unwanted.popleft())
            finally:
                self._lock.release()

    def _remove(self, unwanted: Callable[[K], bool]) -> list[V]:
        """Take out the values whose keys are unwanted, with the lock held -> these values."""
        return [self._values.pop(key) for key in [key for key in self._values if unwanted(key)]]


_caches: weakref.WeakSet[BoundedCache[Any, Any]] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a child: the thread that holds a lock may not exist here. What it protects is whole at each moment."""
    for cache in list(_caches):
        cache._lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)
