"""Comparing a piece with what was written as the disk has it, past the page cache.

A byte that decays on a disk is hidden for as long as a good copy of its page is in memory. So the read asks the kernel
to bypass the page cache (O_DIRECT). Where a file system does not do that, the pages of this piece are first dropped
from the cache; pages that some process has mapped stay there, and then the copy in memory is what is compared.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

from tst_data.dataset.folder import OpenFile, drop_from_cache, read_errors, read_into
from tst_data.dataset.shard_reader import ShardFiles
from tst_data.dataset.shard_table import PIECE_BYTES

__all__ = ["DiskCheck"]

_DIRECT: int = getattr(os, "O_DIRECT", 0)


class DiskCheck:
    """Checks pieces of shards of any datasets, in one buffer. For one thread."""

    def __init__(self) -> None:
        self._buffer = memoryview(mmap.mmap(-1, PIECE_BYTES))  # page-aligned, as O_DIRECT needs it
        self.num_read = 0
        """Pieces that could be read, whatever their bytes were."""

    def check(self, files: ShardFiles, shard: int, piece: int, expected: int) -> None:
        """Raise DamagedDataError where the piece has another hash, UnavailableError where it cannot be read now."""
        start, end = files.range_of(shard, piece)
        with files.open(shard) as file, read_errors(files.path(shard)):
            num_bytes = self._read(file, start, end)
        self.num_read += 1
        files.check_hash(shard, piece, self._buffer[:num_bytes], expected)

    def _read(self, file: OpenFile, start: int, end: int) -> int:
        """Read the piece into the buffer -> its bytes."""
        if _DIRECT:
            try:
                fcntl.fcntl(file.number, fcntl.F_SETFL, _DIRECT)
                # The buffer is whole pages: the last piece is read past the end of the file.
                count = os.preadv(file.number, [self._buffer], start)
                if count >= end - start:
                    return end - start
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            fcntl.fcntl(file.number, fcntl.F_SETFL, 0)
        drop_from_cache(file, start, end)
        return read_into(self._buffer[: end - start], file, start)
