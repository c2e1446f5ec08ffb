"""Verifying a dataset: that its parts belong to one dataset, and that every byte is the one that was written.

Opening checks what is small (the shard table against the manifest). The rest is checked piece by piece when it is first
read, or all at once by `tst-data verify`, which reads everything, or a random sample in a fraction of the time: decay
that touched a share `d` of the pieces escapes a sample of `n` pieces with a probability of about `exp(-d * n)`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tst_data.dataset.document_index import read_document_file
from tst_data.dataset.folder import DatasetFolder
from tst_data.dataset.manifest import SHARD_TABLE_NAME, Manifest, dataset_fingerprint, document_file_name
from tst_data.dataset.shard_reader import ShardFiles
from tst_data.dataset.shard_table import PIECE_BYTES, ShardTable
from tst_data.durable_files import hash_bytes
from tst_data.errors import DamagedDataError, InvalidInputError

__all__ = ["Verified", "Verifier", "check_table", "read_verified"]


def read_verified(folder: DatasetFolder, name: str, expected: str) -> bytes:
    """The bytes of a file that have this hash. Raises DamagedDataError, or UnavailableError."""
    data = folder.read(name)
    if (actual := hash_bytes(data)) != expected:
        raise DamagedDataError(f"{folder.path / name}: has hash {actual}, expected {expected}; restore it from a copy")
    return data


def check_table(folder: Path, manifest: Manifest, table: ShardTable) -> None:
    """Raise DamagedDataError unless the table is the manifest's, and its shards are those of the fingerprint."""
    fingerprint = dataset_fingerprint(
        tokenizer_hash=manifest.tokenizer.hash,
        end_of_text_id=manifest.end_of_text_id,
        vocabulary_size=manifest.vocabulary_size,
        dtype=manifest.dtype,
        shard_tokens=table.tokens,
        shard_hashes=table.hashes,
    )
    counts = (len(table), int(table.tokens.sum()), int(table.num_documents.sum()))
    expected = (manifest.num_shards, manifest.num_tokens, manifest.num_documents)
    if fingerprint != manifest.fingerprint or counts != expected:
        raise DamagedDataError(
            f"dataset '{folder}': {SHARD_TABLE_NAME} (shards, tokens, documents: {counts}) and the manifest "
            f"({expected}) are not of one dataset; restore both from a copy"
        )


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was read and found as it was written."""

    num_bytes: int
    """Bytes of shards."""
    num_pieces: int
    """Pieces of shards."""
    num_pieces_of_all: int
    """Pieces of all shards of the dataset."""
    num_document_files: int
    """Files of the document index."""


class Verifier:
    """Checks the files of an opened dataset."""

    def __init__(self, folder: DatasetFolder, manifest: Manifest, table: ShardTable, files: ShardFiles) -> None:
        self._folder = folder
        self._manifest = manifest
        self._table = table
        self._files = files
        self._num_pieces: NDArray[np.int64] = -(-table.num_bytes // PIECE_BYTES)

    def check_files(self) -> None:
        """Compare the name and size of every shard file with what was written."""
        for shard in range(len(self._table)):
            self._files.check_size(shard)

    def verify(self, progress: Callable[[int], None], sample: float | None) -> Verified:
        """Read everything, or a share of it; `progress` is given the bytes of shards read since its last call."""
        if sample is not None and not 0 < sample <= 1:
            raise InvalidInputError(f"sample: expected a share above 0 and at most 1 (given: {sample})")
        for name, expected in self._manifest.files.items():
            read_verified(self._folder, name, expected)
        if sample is None:
            self._verify_documents()
            read = [self._verify_shard(shard, progress) for shard in range(len(self._table))]
            document_files = len(self._table)
        else:
            self.check_files()
            document_files = self._verify_some_documents(sample)
            read = list(self._verify_some_pieces(sample, progress))
        return Verified(
            num_bytes=sum(num_bytes for _, num_bytes in read),
            num_pieces=sum(num_pieces for num_pieces, _ in read),
            num_pieces_of_all=int(self._num_pieces.sum()),
            num_document_files=document_files,
        )

    def _verify_documents(self) -> None:
        """The document files together must cover the stream, each document beginning where the one before ends."""
        remedy = "restore the folder from a copy"
        place = f"dataset '{self._folder.path}'"
        token, num_tokens = 0, int(self._table.tokens.sum())
        for shard in range(len(self._table)):
            documents = read_document_file(self._folder, self._table, shard)
            firsts = documents["first_token"].to_numpy().astype(np.int64)
            ends = firsts + documents["length"].to_numpy().astype(np.int64)
            boundaries = np.concatenate([[token], ends])
            if len(documents) != self._table.num_documents[shard] or (firsts != boundaries[:-1]).any():
                raise DamagedDataError(f"{place}: the documents of shard {shard} leave gaps; {remedy}")
            token = int(boundaries[-1])
        if token != num_tokens:
            raise DamagedDataError(f"{place}: its documents end at token {token} of {num_tokens}; {remedy}")

    def _verify_some_documents(self, sample: float) -> int:
        """All document files must be there, and a share of them must have their hashes -> how many were read."""
        for shard in range(len(self._table)):
            self._folder.status(document_file_name(shard))
        chosen = _choose(len(self._table), sample)
        for shard in chosen.tolist():
            read_document_file(self._folder, self._table, shard)
        return len(chosen)

    def _verify_shard(self, shard: int, progress: Callable[[int], None]) -> tuple[int, int]:
        """Each piece must have its hash, and the tokens (the file without its header) that of the fingerprint.

        Gives the number of pieces and of bytes.
        """
        header_bytes = int(self._table.token_offset[shard])
        tokens_hash = hashlib.sha256()
        pieces = self._table.pieces(shard)
        with self._files.open(shard) as file:
            for number, expected in enumerate(pieces.tolist()):
                piece = self._files.read_piece(shard, number, expected, file)
                tokens_hash.update(piece[max(0, header_bytes - number * PIECE_BYTES) :])
                progress(len(piece))
        if tokens_hash.digest() != self._table.hashes[shard].tobytes():
            raise DamagedDataError(
                f"{self._files.path(shard)}: its tokens do not have the sha256 that the fingerprint is made of; "
                "restore the folder from a copy"
            )
        return len(pieces), int(self._table.num_bytes[shard])

    def _verify_some_pieces(self, sample: float, progress: Callable[[int], None]) -> Iterator[tuple[int, int]]:
        """A share of the pieces of all shards must have their hashes -> pieces and bytes of one shard after another."""
        ends = np.cumsum(self._num_pieces)
        if not len(ends):
            return
        chosen = _choose(int(ends[-1]), sample)
        shards, counts = np.unique(np.searchsorted(ends, chosen, side="right"), return_counts=True)
        of_shards = np.split(chosen, np.cumsum(counts)[:-1])
        for shard, of_shard in zip(shards.tolist(), of_shards, strict=True):
            numbers = of_shard - (int(ends[shard]) - int(self._num_pieces[shard]))
            expected = self._table.pieces(shard)
            num_bytes = 0
            with self._files.open(shard) as file:
                for number in numbers.tolist():
                    piece = self._files.read_piece(shard, number, int(expected[number]), file)
                    num_bytes += len(piece)
                    progress(len(piece))
            yield len(numbers), num_bytes


def _choose(number: int, share: float) -> NDArray[np.int64]:
    """A share of `range(number)`, rounded up, in order; another choice each time."""
    chosen: NDArray[np.int64] = np.random.default_rng().choice(
        number, math.ceil(number * share), replace=False, shuffle=False
    )
    return np.sort(chosen)
