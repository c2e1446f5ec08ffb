"""A dataset's folder, held open: every file of it is opened relative to its descriptor, and only as a regular file.

A path says where something is now; a descriptor says which folder was opened. So if a folder is renamed and another one
takes its place, the files that are read are still those of the first. Only where the first is damaged or cannot be
read, and what has its path now is a copy of it (`retry_restored`), is that one read from then on. A FIFO or a device is
refused and not opened, because opening one may wait forever or have effects.

This is also the one place that decides whether an error of the operating system is damage. A file that is missing, or
that is something else, is damaged data: only a copy helps. Anything else (too many open files, no
permission, a stale network mount, an I/O error) may pass: the data is unavailable, and clients try again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

from tst_data.errors import DamagedDataError, InvalidInputError, NotFoundError, TSTError, UnavailableError

__all__ = [
    "DatasetFolder",
    "Identity",
    "OpenFile",
    "drop_from_cache",
    "identity_of",
    "read_error",
    "read_errors",
    "read_into",
]

T = TypeVar("T")

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)
"""Errors that say: at this name there is no file."""

_REMEDIES = {
    errno.EMFILE: "raise the limit of open files of this process (ulimit -n)",
    errno.ENFILE: "raise the limit of open files of this machine (sysctl fs.file-max)",
    errno.EACCES: "let this user read it",
    errno.EPERM: "let this user read it",
    errno.ESTALE: "check the network mount",
    errno.ETIMEDOUT: "check the network mount",
    errno.EIO: "check the disk or the network mount",
    errno.ENOMEM: "give this machine more memory, or run less on it",
}

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, modification and change time of a file. Each write that begins changes it.

A program can set the modification time, and only the kernel sets the change time. It does so when a write begins. So
bytes may change later, while that write is running, and another write in the same tick of the clock shows nothing:
`shard_reader` waits until the change time is old. A write through a shared memory map changes the times only at the
first write to a page that is not yet waiting to be written to disk.
"""


def identity_of(status: os.stat_result) -> Identity:
    """The identity of the file with this status."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_error(path: Path, error: OSError | MemoryError, note: str = "") -> TSTError:
    """What an error of reading `path` means: damage, or data that is unavailable; `note` is added where it is missing.

    An error that is ours already is returned as it is.
    """
    if isinstance(error, TSTError):  # UnavailableError is a TimeoutError, so an OSError
        return error
    if isinstance(error, MemoryError):
        return UnavailableError(f"{path}: cannot be read now (too little memory); {_REMEDIES[errno.ENOMEM]}")
    if error.errno in _MISSING:
        return DamagedDataError(f"{path}: is missing{note}; restore it from a copy")
    remedy = _REMEDIES.get(error.errno or 0, "check the disk or the network mount")
    return UnavailableError(f"{path}: cannot be read now ({error.strerror or error}); {remedy}")


@contextmanager
def read_errors(path: Path, note: str = "") -> Iterator[None]:
    """Raise what errors of reading `path` mean."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise read_error(path, error, note) from None


class OpenFile:
    """An open file or folder. It is closed at the end of a `with` block, or when nobody holds it any longer."""

    __slots__ = ("number", "status")

    def __init__(self, number: int) -> None:
        self.number = number
        """The file descriptor; -1 when closed."""
        self.status = os.fstat(number)

    def close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def read_into(view: memoryview, file: OpenFile, start: int) -> int:
    """Fill the view with the bytes of the file from `start` on -> how many there were. Releases the lock."""
    done = 0
    while done < len(view) and (count := os.preadv(file.number, [view[done:]], start + done)):
        done += count
    return done


def drop_from_cache(file: OpenFile, start: int, end: int) -> None:
    """Let the kernel forget these bytes, so that they are read from the disk again; not pages that are mapped."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.number, start, end - start, os.POSIX_FADV_DONTNEED)


class DatasetFolder:
    """A folder of files that do not change. Safe to use from several threads, and in a child that was forked.

    It is opened at first use and again after `close`, by its path. What is read then is compared with what was verified
    before, as always.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        """Where the folder was when it was opened: for messages."""
        self._lock = threading.Lock()
        self._open: OpenFile | None = None
        self._mark: tuple[str, bytes] | None = None
        _folders.add(self)

    def recognize_by(self, name: str, data: bytes) -> None:
        """A folder that has this file with these bytes is a copy of this one; the file must name hashes of all others.

        Without it, no other folder is taken for a copy.
        """
        self._mark = (name, hashlib.sha256(data).digest())

    def retry_restored(self, read: Callable[[], T]) -> T:
        """What `read` returns. If it fails, and a copy of this folder has its path now, it is read from that one.

        So a folder that was restored from a copy is used without opening the dataset again. The folder before is kept
        where `read` fails with the copy too: it may be incomplete, and other files of the folder before may be good.
        """
        before = self._open or self._held()
        try:
            return read()
        except (DamagedDataError, UnavailableError):
            if self._open is before and not self._take_restored():
                raise
        taken = self._open
        try:
            return read()
        except (DamagedDataError, UnavailableError):
            with self._lock:
                if taken is not None and self._open is taken:
                    self._open = before
            raise

    def check(self, kind: str, remedy: str) -> None:
        """Raise NotFoundError or InvalidInputError unless there is such a folder; `kind` says what it should be."""
        place = f"{kind} '{self.path}'"
        try:
            self._held()
        except DamagedDataError:
            if os.path.exists(self.path) and not os.path.isdir(self.path):
                raise InvalidInputError(f"{place}: is a file; {remedy}") from None
            raise NotFoundError(f"{place}: does not exist; {remedy}") from None

    def open(self, name: str, note: str = "") -> OpenFile:
        """The regular file of that name. Raises DamagedDataError where there is none, else UnavailableError."""
        path = self.path / name
        folder = self._held()
        with read_errors(path, note):
            self._check_kind(path, os.stat(name, dir_fd=folder.number))
            # Should it be replaced by a FIFO just now, O_NONBLOCK returns at once.
            file = OpenFile(os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder.number))
        self._check_kind(path, file.status)
        return file

    def status(self, name: str, note: str = "") -> os.stat_result:
        """The status of the regular file of that name. Raises as `open`."""
        path = self.path / name
        folder = self._held()
        with read_errors(path, note):
            status = os.stat(name, dir_fd=folder.number)
        self._check_kind(path, status)
        return status

    def identity(self, name: str) -> Identity | None:
        """The identity of what has that name; None where there is nothing. Takes about 2 microseconds."""
        folder = self._open or self._held()
        try:
            return identity_of(os.stat(name, dir_fd=folder.number))
        except OSError as error:
            if error.errno in _MISSING:
                return None
            raise read_error(self.path / name, error) from None

    def holds(self, name: str) -> bool:
        """Whether there is anything of that name."""
        return self.identity(name) is not None

    def read(self, name: str) -> bytes:
        """All bytes of a file. Raises as `open`."""
        with self.open(name) as file, read_errors(self.path / name):
            parts = []
            while part := os.read(file.number, 1 << 24):
                parts.append(part)
            return b"".join(parts)

    def close(self) -> None:
        """Close the folder. A later use opens it again, by its path."""
        with self._lock:
            self._open = None

    def _take_restored(self) -> bool:
        """Hold the folder that has the path now, if it is another one and a copy of this -> whether it is."""
        held, mark = self._open, self._mark
        if held is None or mark is None:
            return False
        candidate = DatasetFolder(self.path)
        try:
            there = candidate._held()
            if os.path.samestat(there.status, held.status) or not candidate._is_marked(*mark):
                return False
        except (DamagedDataError, UnavailableError):
            return False
        with self._lock:
            self._open = there
        return True

    def _is_marked(self, name: str, digest: bytes) -> bool:
        return hashlib.sha256(self.read(name)).digest() == digest

    def _held(self) -> OpenFile:
        """The open folder. Whoever uses its descriptor holds it, so `close` in another thread cannot end it early."""
        with self._lock:
            if self._open is None:
                with read_errors(self.path):
                    self._open = OpenFile(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            return self._open

    def _check_kind(self, path: Path, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a FIFO, a socket or a device"
            raise DamagedDataError(f"{path}: is {kind}, expected a file; restore it from a copy")


_folders: weakref.WeakSet[DatasetFolder] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a child: the thread that holds a lock may not exist here."""
    for folder in list(_folders):
        folder._lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)
