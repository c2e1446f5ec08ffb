"""The files of a folder or of a glob, in order; none is left out without an error.

`os.walk` and `glob` skip a folder that they cannot read: one without read permission, or a mount that is gone. Then
text would be missing from a dataset, and no message would say so. Here such a folder is an error that names it.

Hidden names do not count, unless the pattern itself begins with the dot. Links to folders are not followed within a
folder. In a glob they are followed where the pattern leads through them, but never in a circle.
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
    """Whether a source is a pattern, given that no file has this very name."""
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
    """The wanted files that a pattern matches, sorted by path; `**` matches any number of folders."""
    path = Path(pattern)
    anchor, parts = Path(path.anchor), path.parts[1:] if path.anchor else path.parts
    return _sorted_files(set(_matches(anchor, parts)), wanted)


def _matches(folder: Path, parts: tuple[str, ...], entered: frozenset[str] = frozenset()) -> Iterator[Path]:
    """What `parts` of a pattern match below `folder`. `entered` are the real paths that `**` has come through."""
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        here = os.path.realpath(folder)
        if here in entered:  # a link to a folder above
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
            f"{path}: is a link to a file that does not exist; fetch the file, or remove the link"
        ) from None
    except OSError as error:
        refuse_unreadable(error)


def refuse_unreadable(error: OSError, place: str | None = None) -> NoReturn:
    """Refuse a file or folder that cannot be read: `place`, or the path in the error."""
    raise InvalidInputError(
        f"{place or error.filename}: cannot be read ({error.strerror}), so its text would be missing; make it "
        "readable, or give sources without it"
    ) from error
