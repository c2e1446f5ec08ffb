"""The columns of `shards.parquet`: what is known of each shard, read only as far as it is needed.

Opening a dataset reads the scalar columns. The hashes of a shard's pieces are most of the file; they are read when the
shard is first used, a row group of 1,024 shards at a time. `table_file` makes sure that they are then still the ones
that were verified at opening. 100,000 shards with 7.7 million piece hashes open in 0.3 s, where the `index.json` of MDS
takes more than one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from tst_data.dataset.bounded_cache import BoundedCache
from tst_data.dataset.folder import DatasetFolder
from tst_data.dataset.manifest import SHARD_TABLE_NAME
from tst_data.dataset.table_file import TableFile
from tst_data.durable_files import write_file_atomically

__all__ = ["PIECE_BYTES", "ShardRecord", "ShardTable", "piece_hashes", "write_shard_table"]

PIECE_BYTES = 1 << 20
"""Bytes of a shard file that share one hash; the last piece of a file is shorter."""

_ROW_GROUP_SHARDS = 1024
_CACHED_ROW_GROUPS = 8
_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("samples", pa.uint32(), nullable=False),
        pa.field("sample_tokens", pa.uint32(), nullable=False),
        pa.field("tokens", pa.uint64(), nullable=False),
        pa.field("num_bytes", pa.uint64(), nullable=False),
        pa.field("token_offset", pa.uint64(), nullable=False),
        pa.field("num_documents", pa.uint64(), nullable=False),
        pa.field("hash", pa.binary(32), nullable=False),
        pa.field("documents_hash", pa.binary(16), nullable=False),
        pa.field("pieces", pa.list_(pa.uint64()), nullable=False),
    ]
)
_OPENING_COLUMNS = [
    name for name in _SCHEMA.names if name not in ("samples", "sample_tokens", "pieces")
]  # the others are for other readers of the file, or are read when they are needed


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One row of the table."""

    file: str
    """Name of the shard file."""
    samples: int
    """Samples of the shard, as MDS counts them."""
    sample_tokens: int
    """Tokens of each sample."""
    tokens: int
    """Tokens of the shard: `samples` times `sample_tokens`."""
    num_bytes: int
    """Size of the shard file."""
    token_offset: int
    """Where in the file the tokens begin; they are contiguous from there to its end."""
    num_documents: int
    """Documents whose first token is in this shard."""
    hash: bytes
    """sha256 of the token bytes. It is part of the identity, so the header of the file format is not in it."""
    documents_hash: bytes
    """xxh3_128 of the shard's document file."""
    pieces: NDArray[np.uint64]
    """xxh3_64 of each piece of the file, header included: (ceil(num_bytes / PIECE_BYTES),)."""


def piece_hashes(data: bytes) -> NDArray[np.uint64]:
    """xxh3_64 of each piece of a shard file."""
    view = memoryview(data)
    starts = range(0, len(view), PIECE_BYTES)
    return np.array([xxhash.xxh3_64_intdigest(view[at : at + PIECE_BYTES]) for at in starts], np.uint64)


def write_shard_table(path: Path, records: Iterable[ShardRecord]) -> None:
    """Write the table atomically, with one row group in memory at a time."""
    compression = {field.name: "zstd" for field in _SCHEMA} | {"pieces.list.element": "none"}
    with (
        write_file_atomically(path) as file,
        pq.ParquetWriter(
            file, _SCHEMA, use_dictionary=False, compression=compression, write_page_checksum=True
        ) as writer,
    ):
        for rows in _batched(records, _ROW_GROUP_SHARDS):
            writer.write_table(_arrow_table(rows), row_group_size=_ROW_GROUP_SHARDS)


def _batched(records: Iterable[ShardRecord], size: int) -> Iterator[list[ShardRecord]]:
    iterator = iter(records)
    while batch := list(islice(iterator, size)):
        yield batch


def _arrow_table(rows: list[ShardRecord]) -> pa.Table:
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in list(_SCHEMA)[:-1]]
    ends = np.cumsum([0] + [len(row.pieces) for row in rows]).astype(np.int32)
    values = np.concatenate([row.pieces for row in rows]).astype(np.uint64)
    columns.append(pa.ListArray.from_arrays(pa.array(ends), pa.array(values)))
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


_Pieces = tuple[NDArray[np.int32], NDArray[np.uint64]]
"""One row group: where each shard's hashes begin, (rows + 1,), and the hashes of all of them."""


class ShardTable:
    """The table of an opened dataset. Attributes are arrays over the shards in stream order."""

    def __init__(self, folder: DatasetFolder, expected_hash: str | None = None) -> None:
        """Read the table. Raises DamagedDataError where it is not one, or its xxh3_128 is not `expected_hash`."""
        self._file = TableFile(folder, SHARD_TABLE_NAME, _SCHEMA.names, expected_hash)
        table = self._file.read_at_opening(_OPENING_COLUMNS)
        self._row_groups = BoundedCache[int, _Pieces](_CACHED_ROW_GROUPS)
        self._file_names = table.column("file")
        self.tokens = _int64(table, "tokens")
        self.num_bytes = _int64(table, "num_bytes")
        self.token_offset = _int64(table, "token_offset")
        self.num_documents = _int64(table, "num_documents")
        self.hashes = _fixed_size_bytes(table, "hash", 32)
        self.documents_hashes = _fixed_size_bytes(table, "documents_hash", 16)
        metadata = self._file.metadata
        self._first_row_of_group = np.cumsum(
            [0] + [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def file_name(self, shard: int) -> str:
        name: str = self._file_names[shard].as_py()
        return name

    def documents_hash(self, shard: int) -> str:
        """xxh3_128 of the shard's document file, in hex."""
        digest: bytes = self.documents_hashes[shard].tobytes()
        return digest.hex()

    def pieces(self, shard: int) -> NDArray[np.uint64]:
        """Hashes of the shard's pieces."""
        group = int(np.searchsorted(self._first_row_of_group, shard, side="right")) - 1
        ends, values = self._row_groups.get(group, lambda: self._read_pieces(group))
        row = shard - int(self._first_row_of_group[group])
        return values[ends[row] : ends[row + 1]]

    def _read_pieces(self, group: int) -> _Pieces:
        column = self._file.read_large_column(group).combine_chunks()
        return column.offsets.to_numpy(), column.values.to_numpy()


def _int64(table: pa.Table, name: str) -> NDArray[np.int64]:
    values: NDArray[Any] = table.column(name).to_numpy()
    return values.astype(np.int64)


def _fixed_size_bytes(table: pa.Table, name: str, size: int) -> NDArray[np.uint8]:
    """A column of binaries of one size as bytes, (rows, size)."""
    column = table.column(name).combine_chunks()
    values = np.frombuffer(column.buffers()[1], np.uint8) if len(column) else np.empty(0, np.uint8)
    return values[column.offset * size : (column.offset + len(column)) * size].reshape(-1, size)
