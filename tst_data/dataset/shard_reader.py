"""Reading token bytes out of shard files: memory maps in a bounded cache, each piece verified before its first use.

A window is a slice of a map. Copying such slices gathers about 2,500M tokens/s; indexing `np.memmap` takes twice as
long and `np.take` four times. A map (and the file descriptor that Python keeps for it) is released when its last
reader is done, so the cache never takes one away during a copy. The size is compared whenever a shard is read: a
truncated file is an error with both sizes and not a SIGBUS. (A file that is cut off in the middle of a copy
still kills the process.)

The maps of all datasets of a process share one cache, because descriptors are limited per process: 512 maps, and
never more than a quarter of the descriptors allowed.
"""

from __future__ import annotations

import itertools
import mmap
import os
import resource
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from tst_data.dataset.bounded_cache import BoundedCache
from tst_data.dataset.shard_table import PIECE_BYTES
from tst_data.errors import DamagedDataError

__all__ = ["MapCache", "MappedShard", "ShardFiles", "ShardList", "default_map_cache"]

_DEFAULT_MAPS = 512
_PIECE_SHIFT = PIECE_BYTES.bit_length() - 1

Identity = tuple[int, int, int, int]
"""Device, inode, modification time and size: while they do not change, verified pieces stay verified."""


class MappedShard:
    """A shard's map while it is open."""

    __slots__ = ("file_map", "pieces", "unverified", "verified", "view")

    def __init__(self, file_map: mmap.mmap, pieces: NDArray[np.uint64], verified: bytearray) -> None:
        self.file_map = file_map
        self.view = memoryview(file_map)
        self.pieces = pieces
        self.verified = verified
        """One byte for each piece, shared with `ShardFiles`, which keeps it when the map is released."""
        self.unverified = 0 in verified


MapCache = BoundedCache[tuple[int, int], MappedShard]
"""Maps by owner (a `ShardFiles`) and shard."""


def _descriptor_share() -> int:
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _DEFAULT_MAPS if soft_limit < 0 else min(_DEFAULT_MAPS, soft_limit // 4)


_owners = itertools.count()
_process_cache = MapCache(_descriptor_share())


def default_map_cache() -> MapCache:
    """The cache that all datasets of this process share."""
    return _process_cache


class ShardList(Protocol):
    """What must be known of shard files before a byte of them is trusted."""

    @property
    def num_bytes(self) -> NDArray[np.int64]:
        """Size of each file, (num_shards,)."""

    def file_name(self, shard: int) -> str:
        """The file's name in the folder."""

    def pieces(self, shard: int) -> NDArray[np.uint64]:
        """xxh3_64 of each piece of a file."""


class ShardFiles:
    """The shard files of one dataset. Safe to use from several threads."""

    def __init__(self, folder: Path, table: ShardList, cache: MapCache) -> None:
        self._folder = folder
        self._table = table
        self._cache = cache
        self._owner = next(_owners)
        self._verified: dict[int, tuple[Identity, bytearray]] = {}

    def copy(self, shard: int, starts: list[int], num_bytes: int, target: memoryview, target_starts: list[int]) -> None:
        """Copy `num_bytes` from each of `starts` (in the file) to each of `target_starts`, verifying first.

        Raises DamagedDataError where the file is missing, has another size, or a piece has another hash. Nothing of
        the damaged piece has been copied then, and each later attempt raises again.
        """
        mapped = self._cache.get((self._owner, shard), lambda: self._open(shard))
        size = mapped.file_map.size()
        if size != len(mapped.view):
            raise self._wrong_size(shard, size)
        if mapped.unverified:
            for start in starts:
                self._verify(shard, mapped, start, start + num_bytes)
            mapped.unverified = 0 in mapped.verified
        view = mapped.view
        for start, target_start in zip(starts, target_starts, strict=True):
            target[target_start : target_start + num_bytes] = view[start : start + num_bytes]

    def close(self) -> None:
        """Release the maps; a later read opens them again."""
        self._cache.drop(lambda key: key[0] == self._owner)

    def path(self, shard: int) -> Path:
        return self._folder / self._table.file_name(shard)

    def damaged_piece(self, shard: int, piece: int) -> DamagedDataError:
        """The error that names a piece."""
        start = piece << _PIECE_SHIFT
        end = min(start + PIECE_BYTES, int(self._table.num_bytes[shard]))
        return DamagedDataError(
            f"{self.path(shard)}: piece {piece} (bytes {start} to {end - 1}) is not what was written; "
            "restore the file from a copy"
        )

    def check_size(self, shard: int, status: os.stat_result) -> None:
        """Raise DamagedDataError unless the file has the size that was written."""
        if status.st_size != self._table.num_bytes[shard]:
            raise self._wrong_size(shard, status.st_size)

    def missing(self, shard: int, error: OSError) -> DamagedDataError:
        """The error for a file that cannot be opened."""
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        return DamagedDataError(
            f"{self.path(shard)}: {reason} (expected {self._table.num_bytes[shard]} bytes); restore it from a copy"
        )

    def _wrong_size(self, shard: int, size: int) -> DamagedDataError:
        return DamagedDataError(
            f"{self.path(shard)}: has {size} bytes, expected {self._table.num_bytes[shard]}; restore it from a copy"
        )

    def _open(self, shard: int) -> MappedShard:
        try:
            with self.path(shard).open("rb") as file:
                status = os.fstat(file.fileno())
                self.check_size(shard, status)
                file_map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise self.missing(shard, error) from None
        pieces = self._table.pieces(shard)
        # What was verified before the map was released stays verified, unless the file is another one now.
        identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._verified.get(shard)
        if known is None or known[0] != identity:
            known = self._verified[shard] = (identity, bytearray(len(pieces)))
        return MappedShard(file_map, pieces, known[1])

    def _verify(self, shard: int, mapped: MappedShard, start: int, end: int) -> None:
        for piece in range(start >> _PIECE_SHIFT, ((end - 1) >> _PIECE_SHIFT) + 1):
            if not mapped.verified[piece]:
                at = piece << _PIECE_SHIFT
                if xxhash.xxh3_64_intdigest(mapped.view[at : at + PIECE_BYTES]) != mapped.pieces[piece]:
                    raise self.damaged_piece(shard, piece)
                mapped.verified[piece] = 1
