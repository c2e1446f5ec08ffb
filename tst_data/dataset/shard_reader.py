"""Reading token bytes out of shard files: memory maps in a bounded cache, each piece verified before its first use.

A piece is read from the file into a buffer and hashed when it is first used. The copy then comes from a map of the same
file, which costs one pass over memory. Both release the interpreter's lock, so a slow disk stops one request and not
the whole server: bytes that are in no cache are read by `preadv`, and numpy copies the windows (2-dimensional indexing
always releases the lock; slices of a memoryview, and numpy's 1-dimensional indexing below 500 elements, hold it).

What was verified holds for one state of the file: device, inode, size, modification and change time. It is compared
after every copy, by the name of the file. If it differs, the copy is thrown away, the file is mapped again, and all its
pieces are unverified. So a file that was written to or replaced is noticed, and one that was restored is used at once.
The size is also compared before each copy: a truncated file is an error with both sizes and not a SIGBUS. (A file that
is cut off in the middle of a copy still kills the process.)

The kernel sets the change time once, when a write begins, and the bytes change until it ends. So what is verified while
the change time is young may change later with no sign. For the first 10 seconds after a change nothing is kept as
verified: the pieces of each read are verified before the copy and once more after it. That costs about 0.5 ms for each
piece of each read: who measures a dataset that was just converted measures this. A program that has a file mapped for
writing can change it without a change of its times. What else this cannot notice is in docs/promises.md.
"""

from __future__ import annotations

import itertools
import mmap
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from tst_data.dataset.folder import (
    DatasetFolder,
    Identity,
    OpenFile,
    drop_from_cache,
    identity_of,
    read_error,
    read_errors,
    read_into,
)
from tst_data.dataset.map_cache import MapCache, MappedShard
from tst_data.dataset.shard_table import PIECE_BYTES
from tst_data.errors import DamagedDataError, UnavailableError

__all__ = ["ShardFiles", "ShardList", "ShardRead", "read_shards"]

_PIECE_SHIFT = PIECE_BYTES.bit_length() - 1
_MORE_BYTES = 7
"""Bytes after a piece that are read with it: enough for the rest of a token that begins in it."""
_TRIES = 3
"""How often a file is read that changes while it is read."""
YOUNG_SECONDS = 10.0
"""For so long after a change of the file, the write that made it may still be running.

This is compared with the clock of this machine, so a file server's clock may be late by some of it. If that clock is
ahead, the file is young for longer, and reads of it are only slower.
"""
Bytes = NDArray[np.uint8]
T = TypeVar("T")


class ShardList(Protocol):
    """What must be known of shard files before a byte of them is trusted."""

    @property
    def num_bytes(self) -> NDArray[np.int64]:
        """Size of each file, (num_shards,)."""

    def file_name(self, shard: int) -> str:
        """The file's name in the folder."""

    def pieces(self, shard: int) -> NDArray[np.uint64]:
        """xxh3_64 of each piece of a file."""


_owners = itertools.count()


class _Buffers(threading.local):
    """A buffer of one piece for each thread."""

    def __init__(self) -> None:
        self.piece = memoryview(bytearray(PIECE_BYTES + _MORE_BYTES))


_buffers = _Buffers()


class ChangedError(Exception):
    """The file was changed since it was mapped."""


class HeldShard(NamedTuple):
    """A map whose wanted pieces were verified, and what is to be verified once more after the copy."""

    mapped: MappedShard
    young_pieces: list[int]
    """Pieces that were verified while the file was young: they may have changed since."""


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
        owner = self._owner
        weakref.finalize(self, cache.drop_soon, lambda key: key[0] == owner).atexit = False

    @property
    def num_maps(self) -> int:
        """How many maps its cache keeps."""
        return self._cache.limit

    def hold(self, shard: int, starts: NDArray[np.int64], num_bytes: int) -> HeldShard:
        """The shard's map, after the `num_bytes` from each of `starts` in the file were verified.

        Raises DamagedDataError where the file is missing, has another size, or a piece has another hash,
        UnavailableError where it cannot be read now, ChangedError where it is not the file that was mapped.
        """
        try:
            return self._hold(shard, starts, num_bytes)
        except (DamagedDataError, UnavailableError):
            return self._folder.retry_restored(lambda: self._hold(shard, starts, num_bytes))

    def is_unchanged(self, shard: int, held: HeldShard) -> bool:
        """Whether the bytes that were copied since `hold` are those that were verified. Raises as `hold`."""
        mapped = held.mapped
        try:
            if held.young_pieces and self._is_same(mapped):
                with self._open_mapped(shard, mapped) as file:
                    for piece in held.young_pieces:
                        self.read_piece(shard, piece, int(mapped.pieces[piece]), file)
            return self._is_same(mapped)
        except (ChangedError, DamagedDataError):  # if it is damage, the next verification says so
            return False

    def release(self, shard: int) -> None:
        """Release the shard's map: the next read opens the file again."""
        self._cache.drop(lambda key: key == (self._owner, shard))

    def close(self) -> None:
        """Release the maps; a later read opens them again."""
        self._cache.drop(lambda key: key[0] == self._owner)

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
        """Verify the piece again before its next use, from the disk if possible.

        Does nothing where the dataset has no such piece.
        """
        if not (0 <= shard < len(self._table.num_bytes) and 0 <= piece << _PIECE_SHIFT < self._table.num_bytes[shard]):
            return
        known = self._verified.get(shard)
        if known is not None:
            known[1][piece] = 0
        self.release(shard)
        with suppress(DamagedDataError, UnavailableError), self.open(shard) as file:
            drop_from_cache(file, *self.range_of(shard, piece))

    def _hold(self, shard: int, starts: NDArray[np.int64], num_bytes: int) -> HeldShard:
        try:
            mapped = self._cache.get((self._owner, shard), lambda: self._map(shard))
            if mapped.file_map.size() != len(mapped.data):
                raise ChangedError
            return HeldShard(mapped, self._verify(shard, mapped, starts, num_bytes) if 0 in mapped.verified else [])
        except (OSError, MemoryError) as error:
            raise read_error(self.path(shard), error) from None

    def _is_same(self, mapped: MappedShard) -> bool:
        """Whether the file is in the state in which it was mapped. Raises UnavailableError."""
        return self._folder.identity(mapped.name) == mapped.identity

    def _open_mapped(self, shard: int, mapped: MappedShard) -> OpenFile:
        """Open the file that is mapped. Raises as `open`, and ChangedError where it is another one now."""
        file = self.open(shard)
        if identity_of(file.status) != mapped.identity:
            file.close()
            raise ChangedError
        return file

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

    def _verify(self, shard: int, mapped: MappedShard, starts: NDArray[np.int64], num_bytes: int) -> list[int]:
        """Verify the pieces of these bytes -> those that are to be verified again after the copy.

        Raises ChangedError where the file is not the one that was mapped.
        """
        first, last = starts >> _PIECE_SHIFT, (starts + (num_bytes - 1)) >> _PIECE_SHIFT
        wanted = sorted(
            {
                piece
                for begin, end in set(zip(first.tolist(), last.tolist(), strict=True))
                for piece in range(begin, end + 1)
                if not mapped.verified[piece]
            }
        )
        if not wanted:
            return []
        is_young = not time.time() - mapped.identity[-1] / 1e9 > YOUNG_SECONDS
        with self._open_mapped(shard, mapped) as file:
            for piece in wanted:
                try:
                    self.read_piece(shard, piece, int(mapped.pieces[piece]), file)
                finally:
                    if not self._is_same(mapped):
                        raise ChangedError
                start, end = self.range_of(shard, piece)
                self._check(shard, start, _buffers.piece[: end + self._more(shard, end) - start])
                if not is_young:
                    mapped.verified[piece] = 1
        return wanted if is_young else []


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
        held: list[HeldShard] = []
        try:
            for read in reads:
                held.append(read.files.hold(read.shard, read.starts, read.num_bytes))
        except ChangedError:
            changed = [reads[len(held)]]
        else:
            try:
                result = copy([each.mapped.data for each in held])
            except MemoryError as error:
                raise read_error(reads[0].files.path(reads[0].shard), error) from None
            changed = [
                read for read, each in zip(reads, held, strict=True) if not read.files.is_unchanged(read.shard, each)
            ]
            if not changed:
                return result
        for read in changed:
            read.files.release(read.shard)
    raise UnavailableError(
        f"{changed[0].files.path(changed[0].shard)}: was changed during each of {_TRIES} reads; do not write to the "
        "files of a dataset"
    )
