"""Writing a file so that it is whole or not there, locking it, and hashing files.

A file is written under a temporary name in the same folder, synced and renamed, and the folder is synced: after a
`kill -9` or a power cut the name has either all bytes of the new file, or what it had before. Hashes of files are
xxh3_128, which find damage at memory speed (62 MB of `shards.parquet` in about 10 ms). They are not part of a dataset's
identity; that is made of the sha256 of the shards.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import xxhash

from tst_data.errors import InvalidInputError

__all__ = [
    "TEMPORARY_SUFFIX",
    "FileLock",
    "hash_bytes",
    "hash_file",
    "sync_folder",
    "try_lock",
    "write_atomically",
    "write_file_atomically",
]

TEMPORARY_SUFFIX = ".part"
"""Ending of a file that is being written. If its writer was killed, it may be deleted."""

_CHUNK_BYTES = 1 << 20


@contextmanager
def write_file_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; when the block ends without an error it is at `path`, whole and durable."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`. A reader sees either the old file or the new one."""
    with write_file_atomically(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` as durable as the contents of its files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(file: IO[Any] | int) -> bool:
    """Lock an open file or folder for this process alone; False where another process holds it.

    The kernel releases the lock when the file is closed or the process ends, also by `kill -9`.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class FileLock:
    """A file that exists only to be locked: one process at a time holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def take(self) -> bool:
        """Make and lock the file; False where another process holds it.

        Raises InvalidInputError where the file system has no locks.
        """
        while True:
            file = self.path.open("ab")
            try:
                if not self._try_lock(file):
                    return False
                if self._is_at_path(file):
                    self._file = file
                    return True
            finally:
                if self._file is not file:
                    file.close()
            # The process that held the lock has removed the file since it was opened here: open the new one.

    def release(self, *, remove: bool = False) -> None:
        """Let other processes take the lock; with `remove` the file is deleted first."""
        if self._file is None:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()
        self._file = None

    def _try_lock(self, file: BinaryIO) -> bool:
        try:
            return try_lock(file)
        except OSError as error:
            raise InvalidInputError(
                f"'{self.path}': cannot be locked ({error.strerror}); choose a folder on a file system with locks, "
                "such as a local disk"
            ) from error

    def _is_at_path(self, file: BinaryIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False


def hash_bytes(data: bytes) -> str:
    """The hash that manifests and shard tables hold of a file's bytes: 32 lower-case hex digits of xxh3_128."""
    state = xxhash.xxh3_128()
    state.update(data)  # releases the interpreter's lock, which a call of xxh3_128_hexdigest does not
    return state.hexdigest()


def hash_file(path: Path) -> str:
    """`hash_bytes` of a file, read a MiB at a time."""
    state = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()
