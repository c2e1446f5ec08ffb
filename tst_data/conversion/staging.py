"""The hidden folder beside the destination in which a conversion is built until it is whole.

`.NAME.converting` holds `conversion.json` (what is converted, and how), the tokenizer, and the datasets that are being
written. They get their names only when all of them are finished. A lock keeps a second conversion out; it ends with
the process that holds it. If a conversion is interrupted while it renames its datasets, the same command finishes
that: `finished.json` says which datasets are whole, and those that still have to be renamed are renamed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tst_data.configuration import shown
from tst_data.dataset.manifest import load_manifest
from tst_data.durable_files import FileLock, sync_folder, write_atomically
from tst_data.errors import InvalidInputError
from tst_data.stores.destination import is_vacant

__all__ = ["Staging", "staging_folder"]

_REQUEST_NAME = "conversion.json"
_FINISHED_NAME = "finished.json"
_LOCK_NAME = "lock"
_DISCARDED: dict[str, Any] = {}
"""Written in place of the request before the folder is emptied, so that no conversion continues with half of it."""


def staging_folder(destination: Path) -> Path:
    """The folder in which the dataset at `destination` is built."""
    return destination.with_name(f".{destination.name}.converting")


class Staging:
    """The locked staging folder of one conversion. `request` is everything that determines its result.

    Raises InvalidInputError where another process is converting to this destination, or where the folder holds an
    interrupted conversion of something else (`restart` discards that one).
    """

    def __init__(self, destination: Path, request: Mapping[str, Any], *, restart: bool = False) -> None:
        self.destination = destination
        self.folder = staging_folder(destination)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / _LOCK_NAME)
        try:
            if not self._lock_taken():
                raise InvalidInputError(
                    f"{destination}: another process is converting to it; wait for its end, or stop it"
                )
            if restart and (self.folder / _REQUEST_NAME).exists():
                self._discard()
            self._begin_or_continue(dict(request))
        except BaseException:
            self._lock.release()
            raise

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / "tokenizer"

    @property
    def is_complete(self) -> bool:
        """Whether all datasets were whole when an earlier attempt ended."""
        return (self.folder / _FINISHED_NAME).exists()

    def complete(self, destinations: Mapping[str, Path]) -> None:
        """Note that the datasets in `folder / name` are whole, then move each to its destination."""
        if not self.is_complete:
            fingerprints = {name: load_manifest(self.folder / name).fingerprint for name in destinations}
            write_atomically(self.folder / _FINISHED_NAME, json.dumps(fingerprints).encode())
        fingerprints = json.loads((self.folder / _FINISHED_NAME).read_bytes())
        for name, destination in destinations.items():
            if (self.folder / name).exists():
                if not is_vacant(destination):
                    raise InvalidInputError(
                        f"{destination}: something was put there during the conversion; move it away, then give the "
                        "same command again"
                    )
                os.rename(self.folder / name, destination)
                sync_folder(destination.parent)
            elif load_manifest(destination).fingerprint != fingerprints[name]:
                raise InvalidInputError(
                    f"{destination}: is not the dataset that this conversion made; convert again with --restart"
                )
        self.remove()

    def remove(self) -> None:
        """Delete the folder with everything in it."""
        self._discard()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _lock_taken(self) -> bool:
        try:
            return self._lock.take()
        except FileNotFoundError:  # the process that held it has just finished and removed the folder
            return False

    def _begin_or_continue(self, request: dict[str, Any]) -> None:
        path = self.folder / _REQUEST_NAME
        found = json.loads(path.read_bytes()) if path.exists() else _DISCARDED
        if found != _DISCARDED:
            if found != request:
                difference = _difference(found, request)
                remedy = "install that version" if difference.startswith("encoder ") else "give its command again"
                raise InvalidInputError(
                    f"{self.destination}: {self.folder} holds an interrupted conversion with {difference}; {remedy} "
                    "to resume it, or --restart to discard it"
                )
        else:
            self._clear()
            write_atomically(path, json.dumps(request, sort_keys=True).encode())

    def _discard(self) -> None:
        write_atomically(self.folder / _REQUEST_NAME, json.dumps(_DISCARDED).encode())

    def _clear(self) -> None:
        """Empty the folder. Without a `conversion.json` it may hold only what a conversion writes before that file."""
        ours = {_LOCK_NAME, f"{_REQUEST_NAME}.part"}
        holds_conversion = (self.folder / _REQUEST_NAME).exists()
        for entry in sorted(self.folder.iterdir(), key=lambda entry: entry.name == _REQUEST_NAME):
            if entry.name == _LOCK_NAME:
                continue
            if not holds_conversion and entry.name not in ours:
                raise InvalidInputError(
                    f"{self.folder}: holds '{entry.name}', which is not from a conversion; move the folder away"
                )
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _difference(found: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    for key in sorted({*found, *given}):
        if key not in found:
            return "options of an older version of this program"
        if found[key] != given.get(key):
            if key == "source_digest":
                return "other source files (names, sizes or modification times differ)"
            return f"{key} {shown(found[key])} instead of {shown(given.get(key))}"
    return "other options"
