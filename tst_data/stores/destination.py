"""The folder that a command is asked to make: what may be given, its parents, and the file system's errors about it.

Datasets are built in a hidden folder beside their destination, so an error of the file system names a path that the
user did not give. Here it becomes one line about the destination. Errors about other files stay as they are.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from tst_data.errors import InvalidInputError, TSTError
from tst_data.given_files import expanded_path

__all__ = ["is_vacant", "local_destination", "making_parents", "refuse_inside_sources", "refuse_occupied", "writing_to"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


def local_destination(given: str) -> Path:
    """The value of `--out` as a path. It takes the string as given, because a Path makes `s3:/` of `s3://`."""
    if "://" in given:
        raise InvalidInputError(
            f"--out {given}: expected a folder on this machine; give its path, and copy the folder when it is whole"
        )
    path = expanded_path(given, "--out")
    if path.name in ("", ".."):
        raise InvalidInputError(f"--out {given or repr(given)}: has no name; give the path of a folder to make")
    return path


def is_vacant(destination: Path) -> bool:
    """Whether a folder may be put there: nothing is there, or an empty folder."""
    if destination.is_symlink() or not destination.is_dir():
        return not os.path.lexists(destination)
    return not any(destination.iterdir())


def refuse_occupied(destination: Path, holds: str = "something else") -> NoReturn:
    """Refuse a destination that is not vacant."""
    raise InvalidInputError(f"{destination}: already holds {holds}; choose another --out, or move it away")


@contextmanager
def making_parents(destination: Path) -> Iterator[None]:
    """Make the folders above `destination` that are missing. After an error those that are empty are removed again."""
    missing = [parent for parent in destination.parents if not os.path.lexists(parent)]
    made = []
    try:
        for parent in reversed(missing):
            with suppress(FileExistsError):  # another process was quicker
                parent.mkdir()
                made.append(parent)
        yield
    except BaseException:
        with suppress(OSError):
            for parent in reversed(made):
                parent.rmdir()
        raise


def refuse_inside_sources(destination: Path, sources: Sequence[str]) -> None:
    """Refuse a destination below a source folder: the next conversion would read its files as documents."""
    parents = Path(os.path.realpath(destination)).parents
    for source in sources:
        if os.path.isdir(source) and Path(os.path.realpath(source)) in parents:
            raise InvalidInputError(
                f"{destination}: is in the source folder {source}, whose files are all read as documents; choose an "
                "--out outside it, or give its files by a pattern"
            )


@contextmanager
def writing_to(destination: Path) -> Iterator[None]:
    """Turn errors of the file system about `destination`, or the hidden folder beside it, into one line about it."""
    try:
        yield
    except OSError as error:
        if isinstance(error, TSTError) or not _is_about(destination, error):
            raise
        raise TSTError(f"{destination}: cannot be written: {_reason(destination, error)}") from error


def _is_about(destination: Path, error: OSError) -> bool:
    if error.filename is None:  # an error of writing: reading has its own messages
        return error.errno in (*_NO_ROOM, errno.EFBIG)
    target, path = Path(os.path.abspath(destination)), Path(os.path.abspath(os.fsdecode(error.filename)))
    if path == target or path in target.parents:
        return True
    if target.parent not in path.parents:
        return False
    entry = path.relative_to(target.parent).parts[0]
    return entry == target.name or entry.startswith(f".{target.name}.")


def _reason(destination: Path, error: OSError) -> str:
    if error.errno in _NO_ROOM:
        return "no space is left; make room, and give the same command again to resume"
    folder = next(parent for parent in Path(os.path.abspath(destination)).parents if os.path.lexists(parent))
    if not folder.is_dir():
        return f"{folder} is not a folder; choose another --out"
    if error.errno in _NO_RIGHT:
        return f"no permission to write to {folder} ({error.strerror}); get the permission, or choose another --out"
    return f"{error.strerror or error}; choose another --out"
