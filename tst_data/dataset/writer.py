"""Writing a dataset, shard by shard, so that an interruption costs at most one shard.

The writer fills a buffer of one shard's tokens; when it is full, shard file and document file are written whole
and synced, and a line in the journal commits them. A new writer on the same folder goes on behind the last
committed shard: the caller appends the same documents again from `resume_point.document` on, and the tokens of
that document that are already written are dropped. The finished dataset has the same bytes either way, so it
holds no date. Memory is bounded by one shard (three times its bytes while it is encoded); at 64 MB a shard takes about
0.6 s to collect, encode, hash and sync, for half a minute of tokenising.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xxhash

from tst_data.dataset.document_index import DocumentColumns, TokenRange, parquet_bytes
from tst_data.dataset.journal import Journal, JournalEntry
from tst_data.dataset.manifest import (
    DOCUMENTS_FOLDER,
    FORMAT_VERSION,
    INDEX_NAME,
    JOURNAL_NAME,
    MANIFEST_NAME,
    SHARD_TABLE_NAME,
    Manifest,
    TokenDtype,
    TokenizerDescription,
    dataset_fingerprint,
    document_file_name,
    dtype_for,
    shard_file_name,
    write_manifest,
)
from tst_data.dataset.mds import ShardEncoder, index_chunks
from tst_data.dataset.reader import Dataset, open_dataset
from tst_data.dataset.shard_table import PIECE_BYTES, ShardRecord, ShardTable, write_shard_table
from tst_data.durable_files import TEMPORARY_SUFFIX, hash_bytes, hash_file, write_atomically, write_file_atomically
from tst_data.errors import InvalidInputError

__all__ = ["DEFAULT_SAMPLE_TOKENS", "DatasetWriter", "ResumePoint", "default_shard_tokens", "write_dataset"]

DEFAULT_SAMPLE_TOKENS = 4096
_DEFAULT_SHARD_BYTES = 64_000_000


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where in the source to go on."""

    document: int
    """Ordinal, from 0, of the first document to append."""
    tokens: int
    """Tokens of that document that are already written; the writer itself drops them."""


def default_shard_tokens(dtype: str, sample_tokens: int) -> int:
    """Tokens of a shard file of about 64 MB, a multiple of the sample's length."""
    samples = _DEFAULT_SHARD_BYTES // (sample_tokens * np.dtype(dtype).itemsize)
    return max(1, samples) * sample_tokens


class DatasetWriter:
    """A dataset being written into `folder`, which is made if it does not exist.

    `options` is anything JSON can hold that determines the tokens (sources, tokenizer hash, ...): a later writer
    on the same folder must be given the same. Raises InvalidInputError for a folder that holds a finished
    dataset, one begun with other options, or one that another process is writing.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        vocabulary_size: int,
        end_of_text_id: int,
        dtype: str | None = None,
        sample_tokens: int = DEFAULT_SAMPLE_TOKENS,
        shard_tokens: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._vocabulary_size = vocabulary_size
        self._end_of_text_id = end_of_text_id
        self._dtype_name = _checked_dtype(dtype, vocabulary_size)
        self._dtype = np.dtype(self._dtype_name)
        self._sample_tokens = sample_tokens
        self._shard_tokens = _checked_shard_tokens(self._dtype, sample_tokens, shard_tokens)
        if not 0 <= end_of_text_id < vocabulary_size:
            raise InvalidInputError(
                f"end-of-text id {end_of_text_id} is outside the vocabulary of {vocabulary_size} tokens"
            )
        self._journal = self._open_journal(options or {})
        self._encoders: dict[int, ShardEncoder] = {}
        self._buffer = np.empty(self._shard_tokens, self._dtype)
        self._filled = 0
        self._documents = DocumentColumns()
        self._to_drop = 0
        try:
            self._take_up()
        except BaseException:
            self.close()
            raise

    def append(self, tokens: np.ndarray | Sequence[int], *, id: str, source: str, row: int) -> None:
        """Add a document: its token ids, the closing end-of-text token included."""
        values = self._checked(tokens, source, row)
        dropped, self._to_drop = self._to_drop, 0
        if dropped:
            if len(values) <= dropped:
                raise InvalidInputError(
                    f"{source}, row {row}: {len(values)} tokens, of which {dropped} were written before: "
                    "the source has changed; remove the unfinished dataset and convert again"
                )
            self._last_begun = TokenRange(self.num_tokens - dropped, self.num_tokens - dropped + len(values))
        else:
            self._documents.append(id=id, source=source, row=row, first_token=self.num_tokens, length=len(values))
        self._fill(values[dropped:])

    def finish(
        self, *, tokenizer: TokenizerDescription, made: Mapping[str, Any] | None = None, files: Iterable[str] = ()
    ) -> Manifest:
        """Write the tail, the indexes and the manifest.

        `files` are paths relative to the folder that belong to the dataset and that the caller has put there (the
        tokenizer's); their hashes go into the manifest. `made` describes, and must not change between attempts.
        """
        if self._to_drop:
            raise InvalidInputError(
                f"{self.folder}: the source ends before what was already written: it has changed; "
                "remove the unfinished dataset and convert again"
            )
        if not self.num_tokens:
            raise InvalidInputError(f"{self.folder}: a dataset needs at least one document; the source has none")
        whole = self._filled - self._filled % self._sample_tokens
        for length in (whole, self._filled - whole):
            if length:
                self._commit(length)
        for rubbish in self.folder.rglob(f"*{TEMPORARY_SUFFIX}"):
            rubbish.unlink()
        write_shard_table(self.folder / SHARD_TABLE_NAME, (entry.record for entry in self._journal))
        with write_file_atomically(self.folder / INDEX_NAME) as file:
            file.writelines(index_chunks(entry.index_entry for entry in self._journal))
        manifest = self._manifest(tokenizer, made or {}, files)
        write_manifest(self.folder, manifest)
        self._journal.remove()
        return manifest

    def close(self) -> None:
        """Stop, leaving what is committed for a later writer. Harmless after `finish`."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_journal(self, options: Mapping[str, Any]) -> Journal:
        if (self.folder / MANIFEST_NAME).exists() and not (self.folder / JOURNAL_NAME).exists():
            raise InvalidInputError(f"{self.folder}: holds a finished dataset; choose another folder")
        (self.folder / DOCUMENTS_FOLDER).mkdir(parents=True, exist_ok=True)
        header = {
            "format_version": FORMAT_VERSION,
            "vocabulary_size": self._vocabulary_size,
            "end_of_text_id": self._end_of_text_id,
            "dtype": self._dtype.name,
            "sample_tokens": self._sample_tokens,
            "shard_tokens": self._shard_tokens,
            "options": dict(options),
        }
        return Journal(self.folder, header)

    def _take_up(self) -> None:
        """Set counters behind the last committed shard."""
        self.num_shards = self.num_tokens = self._num_begun = 0
        self.resume_point = ResumePoint(document=0, tokens=0)
        for entry in self._journal:
            self.num_shards += 1
            self.num_tokens += entry.record.tokens
            self._num_begun += entry.record.num_documents
            self.resume_point = ResumePoint(document=entry.next_document, tokens=entry.next_document_tokens)
        self._to_drop = self.resume_point.tokens
        self._last_begun = TokenRange(self.num_tokens, self.num_tokens)
        """The document that was begun last in a committed shard."""

    def _checked(self, tokens: np.ndarray | Sequence[int], source: str, row: int) -> np.ndarray:
        values = np.asarray(tokens)
        if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
            raise InvalidInputError(f"{source}, row {row}: expected a list of token ids, closed by end-of-text")
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self._vocabulary_size:
            raise InvalidInputError(
                f"{source}, row {row}: token id {high if low >= 0 else low} is outside the vocabulary of "
                f"{self._vocabulary_size} tokens; use the tokenizer that made the ids"
            )
        if values[-1] != self._end_of_text_id:
            raise InvalidInputError(
                f"{source}, row {row}: ends with token {int(values[-1])}, not end-of-text {self._end_of_text_id}"
            )
        return values

    def _fill(self, values: np.ndarray) -> None:
        while len(values):
            taken = values[: self._shard_tokens - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            self.num_tokens += len(taken)
            values = values[len(taken) :]
            if self._filled == self._shard_tokens:
                self._commit(self._shard_tokens)

    def _next_document(self, end: int) -> tuple[int, int]:
        """The first document not wholly before token `end`, and its tokens that are."""
        if self._last_begun.end <= end:
            return self._num_begun, 0
        return self._num_begun - 1, end - self._last_begun.first_token

    def _commit(self, length: int) -> None:
        """Make the first `length` tokens of the buffer a shard. Documents that begin behind them stay."""
        first_token = self.num_tokens - self._filled
        end = first_token + length
        documents = self._documents
        rest = DocumentColumns()
        if length < self._filled:
            documents, rest = documents.split(end)
        tokens = self._buffer[:length]
        sample_tokens = min(length, self._sample_tokens)
        data, index_entry = self._encoder(sample_tokens).encode(tokens, shard_file_name(self.num_shards))
        document_data = parquet_bytes(documents.table())
        write_atomically(self.folder / document_file_name(self.num_shards), document_data)
        write_atomically(self.folder / shard_file_name(self.num_shards), data)
        record = ShardRecord(
            file=shard_file_name(self.num_shards),
            samples=length // sample_tokens,
            sample_tokens=sample_tokens,
            tokens=length,
            num_bytes=len(data),
            token_offset=len(data) - tokens.nbytes,
            num_documents=len(documents),
            hash=hashlib.sha256(tokens.data).digest(),
            documents_hash=bytes.fromhex(hash_bytes(document_data)),
            pieces=_piece_hashes(data),
        )
        self._num_begun += len(documents)
        self._last_begun = documents.last() or self._last_begun
        next_document, next_document_tokens = self._next_document(end)
        self._journal.append(
            JournalEntry(
                record=record,
                index_entry=index_entry,
                next_document=next_document,
                next_document_tokens=next_document_tokens,
            )
        )
        self.num_shards += 1
        self._documents = rest
        self._buffer[: self._filled - length] = self._buffer[length : self._filled]
        self._filled -= length

    def _encoder(self, sample_tokens: int) -> ShardEncoder:
        if sample_tokens not in self._encoders:
            self._encoders[sample_tokens] = ShardEncoder(self._dtype, sample_tokens)
        return self._encoders[sample_tokens]

    def _manifest(self, tokenizer: TokenizerDescription, made: Mapping[str, Any], files: Iterable[str]) -> Manifest:
        table = ShardTable(self.folder)
        fingerprint = dataset_fingerprint(
            tokenizer_hash=tokenizer.hash,
            end_of_text_id=self._end_of_text_id,
            vocabulary_size=self._vocabulary_size,
            dtype=self._dtype.name,
            shard_tokens=table.tokens,
            shard_hashes=table.hashes,
        )
        names = sorted({SHARD_TABLE_NAME, INDEX_NAME, *files})
        return Manifest(
            format_version=FORMAT_VERSION,
            fingerprint=fingerprint,
            tokenizer=tokenizer,
            end_of_text_id=self._end_of_text_id,
            vocabulary_size=self._vocabulary_size,
            dtype=self._dtype_name,
            sample_tokens=self._sample_tokens,
            num_tokens=self.num_tokens,
            num_documents=self._num_begun,
            num_shards=self.num_shards,
            files={name: hash_file(self.folder / name) for name in names},
            made=dict(made),
        )


def write_dataset(
    folder: str | Path,
    documents: Iterable[Sequence[int] | np.ndarray],
    *,
    vocabulary_size: int,
    end_of_text_id: int,
    dtype: str | None = None,
    sample_tokens: int = DEFAULT_SAMPLE_TOKENS,
    shard_tokens: int | None = None,
    tokenizer_name: str = "ids",
) -> Dataset:
    """Store documents that are token ids already; the closing end-of-text token is added to each.

    Document `i` gets the id "i", the source "documents" and the row i. The dataset has no tokenizer to decode with.
    """
    tokenizer = TokenizerDescription(
        name=tokenizer_name, kind="ids", hash=hashlib.sha256(tokenizer_name.encode()).hexdigest()
    )
    with DatasetWriter(
        folder,
        vocabulary_size=vocabulary_size,
        end_of_text_id=end_of_text_id,
        dtype=dtype,
        sample_tokens=sample_tokens,
        shard_tokens=shard_tokens,
    ) as writer:
        for row, ids in enumerate(documents):
            if row >= writer.resume_point.document:
                closed = np.append(np.asarray(ids, np.int64), end_of_text_id)
                writer.append(closed, id=str(row), source="documents", row=row)
        writer.finish(tokenizer=tokenizer)
    return open_dataset(folder)


def _checked_dtype(dtype: str | None, vocabulary_size: int) -> TokenDtype:
    narrowest = dtype_for(vocabulary_size)
    if dtype is None or dtype == narrowest:
        return narrowest
    if dtype != "uint32":
        raise InvalidInputError(
            f"dtype {dtype!r} cannot hold a vocabulary of {vocabulary_size} tokens; use {narrowest}"
        )
    return "uint32"


def _checked_shard_tokens(dtype: np.dtype, sample_tokens: int, shard_tokens: int | None) -> int:
    if sample_tokens < 1:
        raise InvalidInputError(f"{sample_tokens} tokens a sample; expected at least 1")
    if shard_tokens is None:
        return default_shard_tokens(dtype.name, sample_tokens)
    if shard_tokens < 1 or shard_tokens % sample_tokens:
        raise InvalidInputError(
            f"{shard_tokens} tokens a shard; expected a multiple of the {sample_tokens} tokens of a sample"
        )
    return shard_tokens


def _piece_hashes(data: bytes) -> np.ndarray:
    view = memoryview(data)
    starts = range(0, len(view), PIECE_BYTES)
    return np.array([xxhash.xxh3_64_intdigest(view[at : at + PIECE_BYTES]) for at in starts], np.uint64)
