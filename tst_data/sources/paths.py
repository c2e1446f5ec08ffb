"""The files of a folder or of a glob, in order, none left out in silence.

`os.walk` and `glob` pass over what cannot be listed: a subfolder without read permission, a stale mount. Text would
be missing from a dataset, and nobody told. Here whatever cannot be looked into is an error that names it. Hidden
names do not count, unless a pattern spells the dot. A folder's linked subfolders are not entered; those that a
pattern leads through are, each once on a way down.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn

from tst_data.errors import InvalidInputError

__all__ = ["files_of_folder", "files_of_glob", "is_glob", "refuse_unreadable"]


def is_glob(source: str) -> bool:
    """Whether a source that does not exist as it stands is a pattern."""
    return any(character in source for character in "*?[")


Wanted = Callable[[Path], bool]


def files_of_folder(folder: Path, wanted: Wanted = lambda path: True) -> list[Path]:
    """The wanted files of a folder and its subfolders that are not hidden, sorted by path."""
    found = []
    for root, folders, names in os.walk(folder, onerror=refuse_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return _sorted_files(found, wanted)


def files_of_glob(pattern: str, wanted: Wanted = lambda path: True) -> list[Path]:
    """The wanted files that a pattern matches, sorted by path; `**` stands for any number of folders."""
    path = Path(pattern)
    anchor, parts = Path(path.anchor), path.parts[1:] if path.anchor else path.parts
    return _sorted_files(set(_matches(anchor, parts)), wanted)


def _matches(folder: Path, parts: tuple[str, ...], entered: frozenset[str] = frozenset()) -> Iterator[Path]:
    """What `parts` of a pattern match below `folder`; `entered` are the real paths that `**` came through."""
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        here = os.path.realpath(folder)
        if here in entered:  # a link back
            return
        yield from _matches(folder, rest or ("*",))
        for entry in _entries(folder):
            if entry.is_dir() and not entry.name.startswith("."):
                yield from _matches(folder / entry.name, parts, entered | {here})
    elif is_glob(part):
        for entry in _entries(folder):
            shown = not entry.name.startswith(".") or part.startswith(".")
            if shown and fnmatchcase(entry.name, part) and (not rest or entry.is_dir()):
                yield from _matches(folder / entry.name, rest)
    elif os.path.lexists(folder / part):
        yield from _matches(folder / part, rest)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        refuse_unreadable(error)


def _sorted_files(paths: Iterable[Path], wanted: Wanted) -> list[Path]:
    return sorted((path for path in paths if wanted(path) and _is_file(path)), key=lambda path: path.parts)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        raise InvalidInputError(
            f"{path}: a link to a file that is not there; fetch the file, or remove the link"
        ) from None
    except OSError as error:
        refuse_unreadable(error)


def refuse_unreadable(error: OSError, place: str | None = None) -> NoReturn:
    """Refuse what cannot be looked into: `place`, or the path of the error."""
    raise InvalidInputError(
        f"{place or error.filename}: cannot be looked into ({error.strerror}), and what it holds would be missing; "
        "make it readable, or give sources without it"
    ) from error
