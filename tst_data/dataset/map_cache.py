"""Maps of shard files, and the cache in which all datasets of a process keep them.

They share one because descriptors are limited per process: 512 maps, and never more than a quarter of the descriptors
allowed. Each map keeps one descriptor, each open dataset one for its folder, and each thread that verifies one at a
time for the file.
"""

from __future__ import annotations

import mmap
import resource

import numpy as np
from numpy.typing import NDArray

from tst_data.dataset.bounded_cache import BoundedCache
from tst_data.dataset.folder import Identity

__all__ = ["MapCache", "MappedShard", "default_map_cache"]

_DEFAULT_MAPS = 512


class MappedShard:
    """A shard's map while it is open."""

    __slots__ = ("data", "file_map", "identity", "name", "pieces", "verified")

    def __init__(
        self, name: str, file_map: mmap.mmap, identity: Identity, pieces: NDArray[np.uint64], verified: bytearray
    ) -> None:
        self.name = name
        self.file_map = file_map
        self.data: NDArray[np.uint8] = np.frombuffer(file_map, np.uint8)
        self.identity = identity
        """The state of the file that `verified` is about."""
        self.pieces = pieces
        self.verified = verified
        """One byte for each piece, shared with `ShardFiles`, which keeps it when the map is released."""


MapCache = BoundedCache[tuple[int, int], MappedShard]
"""Maps by owner (a `ShardFiles`) and shard."""


def _descriptor_share() -> int:
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _DEFAULT_MAPS if soft_limit < 0 else min(_DEFAULT_MAPS, soft_limit // 4)


_process_cache = MapCache(_descriptor_share())


def default_map_cache() -> MapCache:
    """The cache that all datasets of this process share."""
    return _process_cache
