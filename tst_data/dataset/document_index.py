"""The document index: which document each token comes from.

`documents/` has one Parquet file for each shard, with the documents whose first token is in that shard. A document is
listed once, however many shards it spans, so looking up a token may go back over shards in which no document begins.
Only the files that are needed are read. Each is verified against its hash, and a few are kept: a file of 100,000
documents takes about 20 ms to read.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tst_data.dataset.bounded_cache import BoundedCache
from tst_data.dataset.folder import DatasetFolder, read_errors
from tst_data.dataset.manifest import document_file_name
from tst_data.dataset.shard_table import ShardTable
from tst_data.durable_files import hash_bytes
from tst_data.errors import DamagedDataError

__all__ = ["Document", "DocumentColumns", "DocumentIndex", "TokenRange", "parquet_bytes", "read_document_file"]

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("row", pa.uint64(), nullable=False),
        pa.field("first_token", pa.uint64(), nullable=False),
        pa.field("length", pa.uint64(), nullable=False),
    ]
)
_CACHED_FILES = 8
_ID_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """Where one document came from, and where its tokens are in the token stream."""

    id: str
    """The document's id in its source."""
    source: str
    """The file or dataset that it came from."""
    row: int
    """Its row in the source, from 0."""
    first_token: int
    """Position of its first token in the token stream."""
    length: int
    """Tokens, the closing end-of-text token included."""

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.first_token + self.length


class TokenRange(NamedTuple):
    """A part of the token stream: its first token, and the position after its last one."""

    first_token: int
    end: int


class DocumentColumns:
    """Documents being collected, column by column: about 40 bytes for each, and its id."""

    def __init__(self) -> None:
        self._id_chunks: list[pa.Array] = []
        self._ids: list[str] = []
        self._sources: dict[str, int] = {}
        self._source_codes = array("i")
        self._rows = array("Q")
        self._first_tokens = array("Q")
        self._lengths = array("Q")

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, *, id: str, source: str, row: int, first_token: int, length: int) -> None:
        self._ids.append(id)
        self._source_codes.append(self._sources.setdefault(source, len(self._sources)))
        self._rows.append(row)
        self._first_tokens.append(first_token)
        self._lengths.append(length)
        if len(self._ids) == _ID_CHUNK:
            self._id_chunks.append(pa.array(self._ids, pa.string()))
            self._ids = []

    def table(self) -> pa.Table:
        """All documents collected, in order."""
        ids = pa.concat_arrays([*self._id_chunks, pa.array(self._ids, pa.string())])
        codes = pa.array(self._source_codes, pa.int32())
        dictionary = pa.array(list(self._sources), pa.string())
        columns = [
            ids,
            pa.DictionaryArray.from_arrays(codes, dictionary),
            pa.array(self._rows, pa.uint64()),
            pa.array(self._first_tokens, pa.uint64()),
            pa.array(self._lengths, pa.uint64()),
        ]
        return pa.Table.from_arrays(columns, schema=_SCHEMA)

    def split(self, token: int) -> tuple[DocumentColumns, DocumentColumns]:
        """The documents that begin before `token`, and the others."""
        before, others = DocumentColumns(), DocumentColumns()
        for row in self.table().to_pylist():
            (before if row["first_token"] < token else others).append(**row)
        return before, others

    def last(self) -> TokenRange | None:
        """Where the last document is in the token stream; None without documents."""
        return TokenRange(self._first_tokens[-1], self._first_tokens[-1] + self._lengths[-1]) if len(self) else None


def parquet_bytes(documents: pa.Table) -> bytes:
    """A document file. Equal documents give equal bytes under one version of pyarrow."""
    sink = pa.BufferOutputStream()
    pq.write_table(documents, sink, compression="zstd", use_dictionary=["source"])
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_document_file(folder: DatasetFolder, table: ShardTable, shard: int) -> pa.Table:
    """The documents that begin in a shard, verified. Raises DamagedDataError, or UnavailableError."""
    name = document_file_name(shard)
    data, expected = folder.read(name), table.documents_hash(shard)
    if (actual := hash_bytes(data)) != expected:
        raise DamagedDataError(
            f"{folder.path / name}: has {len(data)} bytes with hash {actual}, expected hash {expected}; restore it "
            "from a copy"
        )
    with read_errors(folder.path / name), pq.ParquetFile(pa.BufferReader(data)) as file:
        # Not by pq.read_table, which imports pandas at its first use: that would fail for good without descriptors.
        return file.read(use_threads=False).combine_chunks()


class DocumentIndex:
    """Finds documents by token range. Safe to use from several threads."""

    def __init__(self, folder: DatasetFolder, table: ShardTable) -> None:
        self._folder = folder
        self._table = table
        self._first_token = np.concatenate([[0], np.cumsum(table.tokens)])
        self._files = BoundedCache[int, pa.Table](_CACHED_FILES)

    def find(self, first_token: int, num_tokens: int) -> list[Document]:
        """The documents that share a token with the range, in stream order. The range must be within the stream."""
        if num_tokens == 0:
            return []
        end = first_token + num_tokens
        shard = self._shard_of(first_token)
        last_shard = self._shard_of(end - 1)
        documents: list[Document] = []
        earlier = self._last_begun_before(first_token, shard)
        if earlier is not None:
            documents.append(earlier)
        for candidate in range(shard, last_shard + 1):
            if self._table.num_documents[candidate]:
                documents += self._begun_within(candidate, first_token, end)
        return documents

    def _shard_of(self, token: int) -> int:
        return int(np.searchsorted(self._first_token, token, side="right")) - 1

    def _last_begun_before(self, token: int, shard: int) -> Document | None:
        """The document that begins before `token` and reaches it, if there is one."""
        for candidate in range(shard, -1, -1):
            if not self._table.num_documents[candidate]:
                continue
            documents = self._file(candidate)
            begun = int(np.searchsorted(documents["first_token"].to_numpy(), token, side="left"))
            if begun:
                document = _document(documents, begun - 1)
                return document if document.end > token else None
        return None

    def _begun_within(self, shard: int, start: int, end: int) -> list[Document]:
        documents = self._file(shard)
        low, high = np.searchsorted(documents["first_token"].to_numpy(), [start, end], side="left")
        return [_document(documents, index) for index in range(int(low), int(high))]

    def _file(self, shard: int) -> pa.Table:
        def read() -> pa.Table:
            return read_document_file(self._folder, self._table, shard)

        return self._files.get(shard, lambda: self._folder.retry_restored(read))


def _document(documents: pa.Table, index: int) -> Document:
    return Document(**{name: documents[name][index].as_py() for name in _SCHEMA.names})
