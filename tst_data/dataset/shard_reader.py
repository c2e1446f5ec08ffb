"""Reading token bytes out of shard files: memory maps in a bounded cache, each piece verified before its first use.

A piece is read from the file into a buffer and hashed when it is first used. The copy then comes from a map of the same
file, which costs one pass over memory. Both release the interpreter's lock, so a slow disk stops one request and not
the whole server: bytes that are in no cache are read by `preadv`, and numpy copies the windows (2-dimensional indexing
always releases the lock; slices of a memoryview, and numpy's 1-dimensional indexing below 500 elements, hold it).

What was verified holds for one state of the file: device, inode, size, modification and change time. It is compared
after every copy, by the name of the file. If it differs, the copy is thrown away, the file is mapped again, and all its
pieces are unverified. So a file that was written to or replaced is noticed, and one that was restored is used at once.
The size is also compared before each copy: a truncated file is an error with both sizes and not a SIGBUS. (A file that
is cut off in the middle of a copy still kills the process.) What this cannot notice is in docs/promises.md.

The maps of all datasets of a process share one cache, because descriptors are limited per process: 512 maps, and
never more than a quarter of the descriptors allowed. Each map keeps one descriptor, each open dataset one for its
folder, and each thread that verifies one at a time for the file.
"""

from __future__ import annotations

import itertools
import mmap
import os
import resource
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from tst_data.dataset.bounded_cache import BoundedCache
from tst_data.dataset.folder import DatasetFolder, Identity, OpenFile, identity_of, read_error, read_errors, read_into
from tst_data.dataset.shard_table import PIECE_BYTES
from tst_data.errors import DamagedDataError, UnavailableError

__all__ = ["MapCache", "MappedShard", "ShardFiles", "ShardList", "ShardRead", "default_map_cache", "read_shards"]

_DEFAULT_MAPS = 512
_PIECE_SHIFT = PIECE_BYTES.bit_length() - 1
_MORE_BYTES = 7
"""Bytes after a piece that are read with it: enough for the rest of a token that begins in it."""
_TRIES = 3
"""How often a file is read that changes while it is read."""
Bytes = NDArray[np.uint8]
T = TypeVar("T")


class MappedShard:
    """A shard's map while it is open."""

    __slots__ = ("data", "file_map", "identity", "name", "pieces", "verified")

    def __init__(
        self, name: str, file_map: mmap.mmap, identity: Identity, pieces: NDArray[np.uint64], verified: bytearray
    ) -> None:
        self.name = name
        self.file_map = file_map
        self.data: Bytes = np.frombuffer(file_map, np.uint8)
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


class _Buffers(threading.local):
    """A buffer of one piece for each thread."""

    def __init__(self) -> None:
        self.piece = memoryview(bytearray(PIECE_BYTES + _MORE_BYTES))


_buffers = _Buffers()


class ChangedError(Exception):
    """The file is not in the state any longer in which it was mapped."""


class ShardFiles:
    """The shard files of one dataset. Safe to use from several threads."""

    def __init__(
        self,
        folder: DatasetFolder,
        table: ShardList,
        cache: MapCache,
        check: Callable[[int, int, memoryview], None] = lambda shard, start, data: None,
    ) -> None:
        """`check(shard, start, data)` looks at each piece that is verified, and at up to 7 bytes after it.

        It raises what is wrong with bytes that have the right hash. `start` is the place in the file.
        """
        self._check = check
        self._folder = folder
        self._table = table
        self._cache = cache
        self._owner = next(_owners)
        self._verified: dict[int, tuple[Identity, bytearray]] = {}
        # A dataset that is dropped and not closed gives its maps back too.
        weakref.finalize(self, _drop_maps, cache, self._owner).atexit = False

    @property
    def num_maps(self) -> int:
        """How many maps its cache keeps."""
        return self._cache.limit

    def hold(self, shard: int, starts: NDArray[np.int64], num_bytes: int) -> MappedShard:
        """The shard's map, after the `num_bytes` from each of `starts` in the file were verified.

        Raises DamagedDataError where the file is missing, has another size, or a piece has another hash,
        UnavailableError where it cannot be read now, ChangedError where it is not the file that was mapped.
        """
        try:
            mapped = self._cache.get((self._owner, shard), lambda: self._map(shard))
            if mapped.file_map.size() != len(mapped.data):
                raise ChangedError
            if 0 in mapped.verified:
                self._verify(shard, mapped, starts, num_bytes)
        except (OSError, MemoryError) as error:
            raise read_error(self.path(shard), error) from None
        return mapped

    def is_unchanged(self, mapped: MappedShard) -> bool:
        """Whether the file is in the state in which it was verified. Raises UnavailableError."""
        return self._folder.identity(mapped.name) == mapped.identity

    def release(self, shard: int) -> None:
        """Release the shard's map: the next read opens the file again."""
        self._cache.drop(lambda key: key == (self._owner, shard))

    def close(self) -> None:
        """Release the maps; a later read opens them again."""
        _drop_maps(self._cache, self._owner)

    def path(self, shard: int) -> Path:
        return self._folder.path / self._table.file_name(shard)

    def open(self, shard: int) -> OpenFile:
        """Open the file. Raises DamagedDataError where it is missing or has another size, else UnavailableError."""
        file = self._folder.open(self._table.file_name(shard), self._expected(shard))
        self._check_size(shard, file.status)
        return file

    def check_size(self, shard: int) -> None:
        """Raise DamagedDataError unless the file is there and has the size that was written."""
        self._check_size(shard, self._folder.status(self._table.file_name(shard), self._expected(shard)))

    def range_of(self, shard: int, piece: int) -> tuple[int, int]:
        """Where in the file the piece begins and ends."""
        start = piece << _PIECE_SHIFT
        return start, min(start + PIECE_BYTES, int(self._table.num_bytes[shard]))

    def read_piece(self, shard: int, piece: int, expected: int, file: OpenFile) -> memoryview:
        """The bytes of a piece, in a buffer that is valid until this thread reads another one.

        Raises DamagedDataError where their hash is not the `expected` one. Releases the interpreter's lock.
        """
        start, end = self.range_of(shard, piece)
        with read_errors(self.path(shard)):
            num_bytes = read_into(_buffers.piece[: end + self._more(shard, end) - start], file, start)
        view = _buffers.piece[: min(num_bytes, end - start)]
        self.check_hash(shard, piece, view, expected)
        return view

    def check_hash(self, shard: int, piece: int, data: memoryview, expected: int) -> None:
        """Raise DamagedDataError unless these bytes of a piece have the hash. Releases the interpreter's lock."""
        state = xxhash.xxh3_64()
        state.update(data)  # releases the lock, which a call of xxh3_64_intdigest does not
        if state.intdigest() != expected:
            start, end = self.range_of(shard, piece)
            raise DamagedDataError(
                f"{self.path(shard)}: piece {piece} (bytes {start} to {end - 1}) is not what was written; "
                "restore the file from a copy"
            )

    def distrust(self, shard: int, piece: int) -> None:
        """Verify the piece again before its next use."""
        known = self._verified.get(shard)
        if known is not None:
            known[1][piece] = 0
        self.release(shard)

    def _more(self, shard: int, end: int) -> int:
        """How many bytes after a piece are read with it."""
        return min(_MORE_BYTES, int(self._table.num_bytes[shard]) - end)

    def _expected(self, shard: int) -> str:
        return f" (expected {self._table.num_bytes[shard]} bytes)"

    def _check_size(self, shard: int, status: os.stat_result) -> None:
        if status.st_size != self._table.num_bytes[shard]:
            raise DamagedDataError(
                f"{self.path(shard)}: has {status.st_size} bytes, expected {self._table.num_bytes[shard]}; restore it "
                "from a copy"
            )

    def _map(self, shard: int) -> MappedShard:
        name, pieces = self._table.file_name(shard), self._table.pieces(shard)
        with self.open(shard) as file, read_errors(self.path(shard)):
            identity = identity_of(file.status)
            file_map = mmap.mmap(file.number, 0, access=mmap.ACCESS_READ)
        # What was verified before the map was released stays verified, unless the file is in another state now.
        known = self._verified.get(shard)
        if known is None or known[0] != identity:
            known = self._verified[shard] = (identity, bytearray(len(pieces)))
        return MappedShard(name, file_map, identity, pieces, known[1])

    def _verify(self, shard: int, mapped: MappedShard, starts: NDArray[np.int64], num_bytes: int) -> None:
        """Verify the pieces of these bytes. Raises ChangedError where the file is not the one that was mapped."""
        first, last = starts >> _PIECE_SHIFT, (starts + (num_bytes - 1)) >> _PIECE_SHIFT
        wanted = {
            piece
            for begin, end in set(zip(first.tolist(), last.tolist(), strict=True))
            for piece in range(begin, end + 1)
            if not mapped.verified[piece]
        }
        if not wanted:
            return
        with self.open(shard) as file:
            if identity_of(file.status) != mapped.identity:
                raise ChangedError
            for piece in sorted(wanted):
                try:
                    self.read_piece(shard, piece, int(mapped.pieces[piece]), file)
                finally:
                    if not self.is_unchanged(mapped):
                        raise ChangedError
                start, end = self.range_of(shard, piece)
                self._check(shard, start, _buffers.piece[: end + self._more(shard, end) - start])
                mapped.verified[piece] = 1


@dataclass(frozen=True)
class ShardRead:
    """Which bytes of a shard are wanted."""

    files: ShardFiles
    shard: int
    starts: NDArray[np.int64]
    """Where in the file they begin."""
    num_bytes: int
    """How many from each of these places on."""


def read_shards(reads: Sequence[ShardRead], copy: Callable[[list[Bytes]], T]) -> T:
    """Verify what is wanted of some shards, then call `copy` with the bytes of these files -> what it returned.

    `copy` takes what it needs and keeps no reference. It is called again if a file was changed in the meantime. Raises
    as `ShardFiles.hold`, and UnavailableError where a file changes all the time. Each later attempt reads again.
    """
    changed: list[ShardRead] = []
    for _ in range(_TRIES):
        held: list[MappedShard] = []
        try:
            for read in reads:
                held.append(read.files.hold(read.shard, read.starts, read.num_bytes))
        except ChangedError:
            changed = [reads[len(held)]]
        else:
            try:
                result = copy([mapped.data for mapped in held])
            except MemoryError as error:
                raise read_error(reads[0].files.path(reads[0].shard), error) from None
            changed = [read for read, mapped in zip(reads, held, strict=True) if not read.files.is_unchanged(mapped)]
            if not changed:
                return result
        for read in changed:
            read.files.release(read.shard)
    raise UnavailableError(
        f"{changed[0].files.path(changed[0].shard)}: was changed during each of {_TRIES} reads; do not write to the "
        "files of a dataset"
    )


def _drop_maps(cache: MapCache, owner: int) -> None:
    cache.drop(lambda key: key[0] == owner)
