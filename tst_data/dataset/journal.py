"""The journal of a dataset being written: what is committed, one line for each shard.

A shard is committed when its whole line is in the journal. The line is written and synced after the shard file and the
document file are. After a `kill -9` at any moment the last line may be torn: it is cut off, and its shard is written
again. The first line holds what the dataset is made of; a writer that is given anything else is refused. A lock on the
file keeps a second writer out; the kernel releases it when its process ends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tst_data.configuration import shown
from tst_data.dataset.manifest import JOURNAL_NAME
from tst_data.dataset.shard_table import ShardRecord
from tst_data.durable_files import sync_folder, try_lock
from tst_data.errors import DamagedDataError, InvalidInputError

__all__ = ["Journal", "JournalEntry"]

_NUMBERS = ("samples", "sample_tokens", "tokens", "num_bytes", "token_offset", "num_documents")
"""Fields of a shard's record that are counts or places."""


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One committed shard."""

    record: ShardRecord
    """The shard's row of the shard table."""
    index_entry: dict[str, Any]
    """The shard's entry in MDS's `index.json`."""
    next_document: int
    """Number of the first document that does not end in this shard or in one before it."""
    next_document_tokens: int
    """Tokens of that document that are already written."""


class Journal:
    """An append-only file. `header` is compared with the one that is in the file, if there is one."""

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.path = folder / JOURNAL_NAME
        self._file = self.path.open("a+b")
        if not try_lock(self._file):
            self._file.close()
            raise InvalidInputError(f"{folder}: another process is writing this dataset; wait for it, or stop it")
        self._cut_torn_line()
        first = self._first_line()
        if first is None:
            self._append_line(dict(header))
            sync_folder(folder)
        elif first != dict(header):
            self._file.close()
            raise InvalidInputError(
                f"{folder}: {_difference(first, header)}; give the same options, or remove the folder"
            )

    def append(self, entry: JournalEntry) -> None:
        """Commit a shard whose files are durable."""
        record = entry.record
        line = {
            **vars(record),
            "hash": record.hash.hex(),
            "documents_hash": record.documents_hash.hex(),
            "pieces": record.pieces.astype("<u8").tobytes().hex(),
        }
        self._append_line(
            {
                "record": line,
                "index_entry": entry.index_entry,
                "next_document": entry.next_document,
                "next_document_tokens": entry.next_document_tokens,
            }
        )

    def __iter__(self) -> Iterator[JournalEntry]:
        """The committed shards in order, read from the file."""
        with self.path.open("rb") as file:
            next(file, None)
            for number, line in enumerate(file, start=2):
                try:
                    yield _entry(json.loads(line))
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise self._damaged(number) from None

    def close(self) -> None:
        """Release the lock; what is committed stays."""
        self._file.close()

    def remove(self) -> None:
        """Delete the file: the dataset is finished."""
        self.path.unlink()
        sync_folder(self.path.parent)
        self.close()

    def _append_line(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content, sort_keys=True).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _first_line(self) -> dict[str, Any] | None:
        self._file.seek(0)
        line = self._file.readline()
        self._file.seek(0, os.SEEK_END)
        if not line:
            return None
        with suppress(ValueError, RecursionError):
            header = json.loads(line)
            if isinstance(header, dict):
                return header
        self._file.close()
        raise self._damaged(1)

    def _cut_torn_line(self) -> None:
        """Keep what ends with a line feed and is JSON: a torn write may also have left zeros at the end."""
        self._file.seek(0)
        whole = 0
        previous = 0
        last = b""
        for line in self._file:
            if line.endswith(b"\n"):
                previous, whole, last = whole, whole + len(line), line
        if last:
            try:
                json.loads(last)
            except (ValueError, RecursionError):
                whole = previous
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def _damaged(self, number: int) -> DamagedDataError:
        return DamagedDataError(f"{self.path}: line {number} is damaged; remove the folder and convert again")


def _entry(content: dict[str, Any]) -> JournalEntry:
    record = dict(content["record"])
    record["hash"] = bytes.fromhex(record["hash"])
    record["documents_hash"] = bytes.fromhex(record["documents_hash"])
    record["pieces"] = np.frombuffer(bytes.fromhex(record["pieces"]), "<u8")
    entry = JournalEntry(
        record=ShardRecord(**record),
        index_entry=content["index_entry"],
        next_document=content["next_document"],
        next_document_tokens=content["next_document_tokens"],
    )
    _check_types(entry)
    return entry


def _check_types(entry: JournalEntry) -> None:
    """Raise ValueError for an entry that no writer has written."""
    numbers = [value for name, value in vars(entry.record).items() if name in _NUMBERS]
    for number in (*numbers, entry.next_document, entry.next_document_tokens):
        if type(number) is not int or not 0 <= number < 1 << 63:
            raise ValueError(number)
    if not isinstance(entry.record.file, str) or not isinstance(entry.index_entry, dict):
        raise ValueError(entry)
    if (len(entry.record.hash), len(entry.record.documents_hash)) != (32, 16):
        raise ValueError(entry)


def _difference(found: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    for key in sorted({*found, *given}):
        if found.get(key) != given.get(key):
            return f"was begun with {key} {shown(found.get(key))}, not {shown(given.get(key))}"
    return "was begun with other options"
