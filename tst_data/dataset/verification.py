"""Verifying a dataset: that its parts belong to one dataset, and that every byte is the one that was written.

Opening checks what is small (the shard table against the manifest). The rest is checked piece by piece when it is first
read, or all at once by `tst-data verify`, which reads everything.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from tst_data.dataset.document_index import read_document_file
from tst_data.dataset.manifest import SHARD_TABLE_NAME, Manifest, dataset_fingerprint
from tst_data.dataset.shard_reader import ShardFiles
from tst_data.dataset.shard_table import PIECE_BYTES, ShardTable
from tst_data.durable_files import hash_file
from tst_data.errors import DamagedDataError

__all__ = ["check_table", "verify_dataset", "verify_file"]


def verify_file(folder: Path, name: str, expected: str) -> None:
    """Raise DamagedDataError unless the file has this hash."""
    try:
        actual = hash_file(folder / name)
    except OSError as error:
        raise DamagedDataError(f"{folder / name}: cannot be read ({error.strerror}); restore it from a copy") from None
    if actual != expected:
        raise DamagedDataError(f"{folder / name}: has hash {actual}, expected {expected}; restore it from a copy")


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


def verify_dataset(
    folder: Path, manifest: Manifest, table: ShardTable, files: ShardFiles, progress: Callable[[int], None]
) -> None:
    """Read everything and compare it with what was written; `progress` is given the bytes read since its last call.

    Raises DamagedDataError naming the file, and the piece of a shard.
    """
    for name, expected in manifest.files.items():
        verify_file(folder, name, expected)
    _verify_documents(folder, table)
    for shard in range(len(table)):
        _verify_shard(shard, table, files, progress)


def _verify_documents(folder: Path, table: ShardTable) -> None:
    """The document files together must cover the token stream, each document beginning where the one before ends."""
    remedy = "restore the folder from a copy"
    token, num_tokens = 0, int(table.tokens.sum())
    for shard in range(len(table)):
        documents = read_document_file(folder, table, shard)
        firsts = documents["first_token"].to_numpy().astype(np.int64)
        ends = firsts + documents["length"].to_numpy().astype(np.int64)
        boundaries = np.concatenate([[token], ends])
        if len(documents) != table.num_documents[shard] or (firsts != boundaries[:-1]).any():
            raise DamagedDataError(f"dataset '{folder}': the documents of shard {shard} leave gaps; {remedy}")
        token = int(boundaries[-1])
    if token != num_tokens:
        raise DamagedDataError(f"dataset '{folder}': its documents end at token {token} of {num_tokens}; {remedy}")


def _verify_shard(shard: int, table: ShardTable, files: ShardFiles, progress: Callable[[int], None]) -> None:
    """Each piece must have its hash, and the tokens (the file without its header) that of the fingerprint."""
    header_bytes = int(table.token_offset[shard])
    tokens_hash = hashlib.sha256()
    try:
        with files.path(shard).open("rb") as file:
            files.check_size(shard, os.fstat(file.fileno()))
            for number, expected in enumerate(table.pieces(shard)):
                piece = file.read(PIECE_BYTES)
                if xxhash.xxh3_64_intdigest(piece) != expected:
                    raise files.damaged_piece(shard, number)
                tokens_hash.update(memoryview(piece)[max(0, header_bytes - number * PIECE_BYTES) :])
                progress(len(piece))
    except OSError as error:
        raise files.missing(shard, error) from None
    if tokens_hash.digest() != table.hashes[shard].tobytes():
        raise DamagedDataError(
            f"{files.path(shard)}: its tokens do not have the sha256 that the fingerprint is made of; restore the "
            "folder from a copy"
        )
