"""How many characters of the documents the tokenizer cannot represent, and when that is too many.

`Tokenizer.encode_and_count` says what is counted. Each split keeps a file in the staging folder with two uint32 for
each of its documents: its characters, and how many of them were lost. It is synced before a shard is committed, so an
attempt that continues knows the counts of all documents that it skips, and the finished dataset has the counts of all
documents, however often the conversion was interrupted. The file takes 8 bytes for each document.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tst_data.conversion.request import Conversion
from tst_data.errors import InvalidInputError, TSTError

__all__ = ["CharacterCounts", "CountFile", "refuse_lost_characters"]

CHECKED_FROM_CHARACTERS = 10_000_000
"""So many characters are read before a conversion may be refused; with fewer, when it has read all."""

_RECORD_BYTES = 8


class CharacterCounts:
    """Characters of documents, and how many of them were lost. Documents of ready token ids have none."""

    def __init__(self, characters: int = 0, lost: int = 0) -> None:
        self.characters = characters
        self.lost = lost

    @property
    def share(self) -> float:
        """Lost characters of all; at most 1, so that a `max_lost` of 1 never refuses."""
        return min(1.0, self.lost / self.characters) if self.characters else 0.0

    def add(self, characters: int, lost: int) -> None:
        self.characters += characters
        self.lost += lost


class CountFile:
    """The counts of the documents of one split, of which the first `num_documents` are already written."""

    def __init__(self, path: Path, num_documents: int) -> None:
        size = num_documents * _RECORD_BYTES
        if num_documents and (not path.exists() or path.stat().st_size < size):
            raise InvalidInputError(f"{path}: holds fewer documents than were converted; convert with --restart")
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(size)
        sums = np.fromfile(self._file, "<u4").reshape(-1, 2).sum(axis=0, dtype=np.uint64)
        self._file.seek(size)
        self.counts = CharacterCounts(*sums.tolist())

    def add(self, characters: int, lost: int) -> None:
        self.counts.add(characters, lost)
        self._file.write(characters.to_bytes(4, "little") + lost.to_bytes(4, "little"))

    def sync(self) -> None:
        """Make all that was added durable."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Stop. The file stays for a later attempt."""
        self._file.close()


def refuse_lost_characters(
    conversion: Conversion, splits: Iterable[CharacterCounts], *, example: str, at_end: bool, can_resume: bool
) -> None:
    """Refuse a conversion that loses a larger share of the characters than it may.

    Raises TSTError where the same command can continue with a larger `max_lost`, and InvalidInputError otherwise.
    """
    total = CharacterCounts()
    for counts in splits:
        total.add(counts.characters, counts.lost)
    if total.share <= conversion.max_lost or not (at_end or total.characters >= CHECKED_FROM_CHARACTERS):
        return
    kind = TSTError if can_resume else InvalidInputError
    resume = ", which resumes," if can_resume else ""
    raise kind(
        f"{example}: the tokenizer cannot represent {total.lost:,} of the {total.characters:,} characters so far "
        f"({100 * total.share:.3g}%), expected at most {100 * conversion.max_lost:.3g}%; use one that knows them, such "
        f"as bytes or train:4096, or give the command again{resume} with a larger --max-lost"
    )
