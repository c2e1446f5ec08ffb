"""Paths and small files that people name: only a regular file is opened, and never more than a limit is read.

Opening a FIFO waits for a writer that may never come, reading `/dev/zero` never ends, and opening some devices does
something. So the kind is checked before the file is opened, and once more on the open file, which may be another one
by then.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tst_data.errors import InvalidInputError, NotFoundError

__all__ = ["expanded_path", "read_small_file"]

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


def expanded_path(text: str, place: str) -> Path:
    """The path that a text means, with the home folder for `~`. Raises InvalidInputError, which begins with `place`."""
    if "\0" in text:
        raise InvalidInputError(f"{place}: '{text}' holds a NUL character, which no path can; remove it")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InvalidInputError(
            f"{place}: '{text}': there is no such user, or no home folder is known; give the whole path, or ./ before "
            "a folder whose name begins with ~"
        ) from None


def read_small_file(path: str | Path, *, place: str, wanted: str, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Messages begin with `place` and ask for `wanted`. Raises NotFoundError where there is no such file,
    InvalidInputError for anything else that is not such a file.
    """
    try:
        _check_kind(os.stat(path), place, wanted)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _check_kind(status, place, wanted)
            data = file.read(limit + 1)
    except InvalidInputError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{place}: does not exist; give the path of {wanted}") from None
    except OSError as error:
        raise InvalidInputError(f"{place}: cannot be read ({error.strerror}); give the path of {wanted}") from None
    except ValueError:  # a path with a NUL character, or with half a character
        raise InvalidInputError(f"{place}: is not a path that a file can have; give the path of {wanted}") from None
    if len(data) > limit:
        raise InvalidInputError(f"{place}: has {status.st_size:,} bytes, expected at most {limit:,}; give another file")
    return data


def _check_kind(status: os.stat_result, place: str, wanted: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a device")
        raise InvalidInputError(f"{place}: cannot be read (it is {kind}); give the path of {wanted}")
