"""Copying windows out of the maps of several shards, in any order, in one pass over memory.

The interpreter's lock is released meanwhile: a page that is not in memory stops this copy and no other thread. numpy
does that for 2-dimensional indexing (for slices of a memoryview, and in 1-dimensional indexing below 500 elements, the
lock is held). Its source must be one array, so the array spans the addresses of all maps, and its rows are all windows
that could begin there. Only rows within a map are ever read. An 8 MB batch takes 1.5 ms, by slices 2.2 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

__all__ = ["copy_windows"]

Bytes = NDArray[np.uint8]

_LARGE_BYTES = 1 << 20
"""Windows of this size are copied one by one: what numpy does for each is nothing beside the copy."""
_MAXIMUM_ARRAY_BYTES = 1 << 62


def copy_windows(
    maps: Sequence[Bytes], map_numbers: NDArray[np.intp], starts: NDArray[np.int64], num_bytes: int
) -> Bytes:
    """The `num_bytes` that begin at byte `starts[i]` of `maps[map_numbers[i]]`: (n, num_bytes), n >= 1.

    The caller has checked that each window is within its map, and holds the maps. Raises MemoryError.
    """
    addresses = np.array([data.ctypes.data for data in maps], np.int64)
    lowest = int(addresses.argmin())
    span = int((addresses + [len(data) for data in maps]).max() - addresses[lowest])
    if num_bytes >= _LARGE_BYTES or span * num_bytes >= _MAXIMUM_ARRAY_BYTES:
        windows = np.empty((len(starts), num_bytes), np.uint8)
        for row, (number, start) in enumerate(zip(map_numbers.tolist(), starts.tolist(), strict=True)):
            windows[row] = maps[number][start : start + num_bytes]
        return windows
    every_window: Bytes = as_strided(maps[lowest], (span - num_bytes + 1, num_bytes), (1, 1), writeable=False)
    copied: Bytes = every_window[(addresses - addresses[lowest])[map_numbers] + starts]
    return copied
