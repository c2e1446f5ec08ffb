"""Comparing token ids with the vocabulary, when their piece is verified.

A piece with the right hash holds what was written. So this finds what a writer got wrong, before a model looks up an
embedding that it does not have. To do it for each batch would take 8 to 15% of the time to build one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tst_data.dataset.manifest import Manifest
from tst_data.dataset.shard_table import ShardTable
from tst_data.errors import DamagedDataError

__all__ = ["IdCheck"]


class IdCheck:
    """What is called with each piece that was verified."""

    def __init__(self, path: Path, manifest: Manifest, table: ShardTable) -> None:
        self._path = path
        self._dtype = np.dtype(manifest.dtype)
        self._vocabulary_size = manifest.vocabulary_size
        self._table = table

    def __call__(self, shard: int, start: int, data: memoryview) -> None:
        """Raise DamagedDataError unless all whole tokens of `data` (from byte `start` of the shard on) are ids."""
        if self._vocabulary_size > np.iinfo(self._dtype).max:  # the dtype holds no other ids
            return
        size = self._dtype.itemsize
        before = start - int(self._table.token_offset[shard])  # bytes of tokens in the pieces before this one
        skipped = -before if before < 0 else -before % size
        tokens = np.frombuffer(data[skipped : skipped + (len(data) - skipped) // size * size], self._dtype)
        if not len(tokens) or int(tokens.max()) < self._vocabulary_size:
            return
        place = int(np.argmax(tokens >= self._vocabulary_size))
        position = int(self._table.tokens[:shard].sum()) + (before + skipped) // size + place
        raise DamagedDataError(
            f"dataset '{self._path}': token {position} is {int(tokens[place])}, outside the vocabulary of "
            f"{self._vocabulary_size} tokens; restore the folder from a copy, or convert it again"
        )
