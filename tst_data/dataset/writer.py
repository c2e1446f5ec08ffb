"""Writing a dataset, shard by shard, so that an interruption costs at most one shard.

The writer fills a buffer of one shard's tokens. When it is full, shard file and document file are written whole and
synced, and a line in the journal commits them. A new writer on the same folder resumes after the last committed shard:
the caller appends the same documents again from `resume_point.document` on, and the tokens of that document that are
already written are dropped. The finished dataset has the same bytes either way, so it holds no date. Memory is bounded
by one shard (three times its bytes while it is encoded). A shard of 64 MB takes about 0.6 s to collect, encode, hash
and sync; tokenizing its text takes half a minute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tst_data.dataset.document_index import DocumentColumns, TokenRange
from tst_data.dataset.folder import DatasetFolder
from tst_data.dataset.journal import Journal, JournalEntry
from tst_data.dataset.layout import DEFAULT_SAMPLE_TOKENS, DatasetLayout
from tst_data.dataset.manifest import (
    DOCUMENTS_FOLDER,
    FORMAT_VERSION,
    INDEX_NAME,
    MANIFEST_NAME,
    SHARD_TABLE_NAME,
    Manifest,
    TokenizerDescription,
    dataset_fingerprint,
    is_unfinished,
    write_manifest,
)
from tst_data.dataset.mds import index_chunks
from tst_data.dataset.reader import Dataset, open_dataset
from tst_data.dataset.shard_table import ShardTable, write_shard_table
from tst_data.dataset.shard_writer import ShardWriter
from tst_data.durable_files import TEMPORARY_SUFFIX, hash_file, write_file_atomically
from tst_data.errors import InvalidInputError

__all__ = ["DatasetWriter", "ResumePoint", "write_dataset"]


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where in the source to resume."""

    document: int
    """Number, from 0, of the first document to append."""
    tokens: int
    """Tokens of that document that are already written; the writer itself drops them."""


class DatasetWriter:
    """A dataset being written into `folder`, which is made if it does not exist.

    `options` is anything that JSON can hold and that determines the tokens (sources, tokenizer hash, ...): a later
    writer on the same folder must be given the same. Raises InvalidInputError for a folder that holds a finished
    dataset, one that was begun with other options, or one that another process is writing.
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
        self._layout = DatasetLayout.choose(
            vocabulary_size=vocabulary_size,
            end_of_text_id=end_of_text_id,
            dtype=dtype,
            sample_tokens=sample_tokens,
            shard_tokens=shard_tokens,
        )
        self._journal = self._open_journal(options or {})
        token_dtype = np.dtype(self._layout.dtype)
        self._shards = ShardWriter(self.folder, token_dtype, sample_tokens)
        self._buffer = np.empty(self._layout.shard_tokens, token_dtype)
        self._filled = 0
        self._documents = DocumentColumns()
        """Documents that begin in the buffer."""
        self._to_drop = 0
        """Tokens of the next document that an earlier writer has written."""
        try:
            self._read_journal()
        except BaseException:
            self.close()
            raise

    def append(self, tokens: NDArray[Any] | Sequence[int], *, id: str, source: str, row: int) -> None:
        """Add a document: its token ids, the closing end-of-text token included."""
        values = self._layout.checked(tokens, source=source, row=row)
        dropped, self._to_drop = self._to_drop, 0
        if dropped:
            if len(values) <= dropped:
                raise InvalidInputError(
                    f"{source}, row {row}: {len(values)} tokens, but {dropped} were already written: the source has "
                    "changed; remove the unfinished dataset and convert again"
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
        # The samples of a shard have one length: first the whole samples of the buffer, then the tokens that are left.
        whole = self._filled - self._filled % self._layout.sample_tokens
        for length in (whole, self._filled - whole):
            if length:
                self._commit(length)
        for leftover in self.folder.rglob(f"*{TEMPORARY_SUFFIX}"):  # of a writer that was killed
            leftover.unlink()
        write_shard_table(self.folder / SHARD_TABLE_NAME, (entry.record for entry in self._journal))
        with write_file_atomically(self.folder / INDEX_NAME) as file:
            file.writelines(index_chunks(entry.index_entry for entry in self._journal))
        manifest = self._manifest(tokenizer, made or {}, files)
        write_manifest(self.folder, manifest)
        self._journal.remove()
        return manifest

    def close(self) -> None:
        """Stop; what is committed stays for a later writer. Does nothing after `finish`."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_journal(self, options: Mapping[str, Any]) -> Journal:
        if (self.folder / MANIFEST_NAME).exists() and not is_unfinished(self.folder):
            raise InvalidInputError(f"{self.folder}: holds a finished dataset; choose another folder")
        (self.folder / DOCUMENTS_FOLDER).mkdir(parents=True, exist_ok=True)
        return Journal(
            self.folder, {"format_version": FORMAT_VERSION, **asdict(self._layout), "options": dict(options)}
        )

    def _read_journal(self) -> None:
        """Set the counters to the state after the last committed shard."""
        self.num_shards = self.num_tokens = self._num_begun = 0
        self.resume_point = ResumePoint(document=0, tokens=0)
        for entry in self._journal:
            self.num_shards += 1
            self.num_tokens += entry.record.tokens
            self._num_begun += entry.record.num_documents
            self.resume_point = ResumePoint(document=entry.next_document, tokens=entry.next_document_tokens)
        self._to_drop = self.resume_point.tokens
        self._last_begun = TokenRange(self.num_tokens, self.num_tokens)
        """The last document that begins in a committed shard."""

    def _fill(self, values: NDArray[Any]) -> None:
        while len(values):
            taken = values[: self._layout.shard_tokens - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            self.num_tokens += len(taken)
            values = values[len(taken) :]
            if self._filled == self._layout.shard_tokens:
                self._commit(self._filled)

    def _commit(self, length: int) -> None:
        """Make the first `length` tokens of the buffer a shard; the rest of the buffer stays."""
        # 1. The documents that begin in the shard; later ones (there are some only in `finish`) stay in the buffer.
        end = self.num_tokens - self._filled + length
        documents, later = self._documents, DocumentColumns()
        if length < self._filled:
            documents, later = self._documents.split(end)
        # 2. Both files, whole and synced. A kill before step 4 leaves them without a line in the journal: the next
        #    writer makes the same bytes again, in files of the same names.
        record, index_entry = self._shards.write(self.num_shards, self._buffer[:length], documents)
        # 3. What a later writer must be given: the document that the shard ends within, if it does, else the next one.
        #    If no document begins in this shard, one that began in an earlier shard spans all of it.
        self._num_begun += len(documents)
        self._last_begun = documents.last() or self._last_begun
        ends_within = self._last_begun.end > end
        next_document = self._num_begun - 1 if ends_within else self._num_begun
        next_document_tokens = end - self._last_begun.first_token if ends_within else 0
        # 4. The line in the journal: from here on the shard is committed.
        self._journal.append(
            JournalEntry(
                record=record,
                index_entry=index_entry,
                next_document=next_document,
                next_document_tokens=next_document_tokens,
            )
        )
        # 5. The rest of the buffer moves to its front.
        self.num_shards += 1
        self._documents = later
        self._buffer[: self._filled - length] = self._buffer[length : self._filled]
        self._filled -= length

    def _manifest(self, tokenizer: TokenizerDescription, made: Mapping[str, Any], files: Iterable[str]) -> Manifest:
        table, layout = ShardTable(DatasetFolder(self.folder)), self._layout
        fingerprint = dataset_fingerprint(
            tokenizer_hash=tokenizer.hash,
            end_of_text_id=layout.end_of_text_id,
            vocabulary_size=layout.vocabulary_size,
            dtype=layout.dtype,
            shard_tokens=table.tokens,
            shard_hashes=table.hashes,
        )
        names = sorted({SHARD_TABLE_NAME, INDEX_NAME, *files})
        return Manifest(
            format_version=FORMAT_VERSION,
            fingerprint=fingerprint,
            tokenizer=tokenizer,
            end_of_text_id=layout.end_of_text_id,
            vocabulary_size=layout.vocabulary_size,
            dtype=layout.dtype,
            sample_tokens=layout.sample_tokens,
            num_tokens=self.num_tokens,
            num_documents=self._num_begun,
            num_shards=self.num_shards,
            files={name: hash_file(self.folder / name) for name in names},
            made=dict(made),
        )


def write_dataset(
    folder: str | Path,
    documents: Iterable[Sequence[int] | NDArray[Any]],
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
