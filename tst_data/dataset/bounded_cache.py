"""A cache that keeps the values that were used last, and never more than a fixed number of them.

It holds what is slow to get and cheap to keep a few of: maps of shard files, row groups of the shard table, document
files. `functools.lru_cache` would do for one object, but it cannot be shared by several datasets, nor release the
values of one of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["BoundedCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """At most `limit` values by key; the one that was not used for the longest time goes first.

    Safe to use from several threads.
    """

    def __init__(self, limit: int) -> None:
        self.limit = max(1, limit)
        # One thread may take it twice: a value that is dropped inside can end an object that calls `drop`.
        self._lock = threading.RLock()
        self._values: OrderedDict[K, V] = OrderedDict()

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
                return found
        made = make()
        with self._lock:
            self._values[key] = made
            while len(self._values) > self.limit:
                self._values.popitem(last=False)
        return made

    def drop(self, unwanted: Callable[[K], bool]) -> None:
        """Release the values whose keys are unwanted."""
        with self._lock:
            for key in list(self._values):
                if unwanted(key):
                    self._values.pop(key, None)
