"""One dataset that a conversion writes, and the place in the sources from which it still lacks documents.

A writer that goes on knows how many documents it has; which place in the sources that is, it does not, since only
some documents are its own. The place is found again in the document index: behind the document that began last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow.parquet as pq

from tst_data.dataset.manifest import TokenizerDescription, document_file_name, is_finished, load_manifest
from tst_data.dataset.writer import DatasetWriter
from tst_data.errors import InvalidInputError
from tst_data.sources.document import SourceDocument
from tst_data.tokenizer.loading import TOKENIZER_FILES, Tokenizer

__all__ = ["END", "Output", "Place"]


class Place(NamedTuple):
    """Where a document stands: number of the file or dataset among the sources, and row in it."""

    part: int
    row: int


END = Place(1 << 62, 0)
"""Behind all documents."""


class Output:
    """The training or the validation dataset. Documents before `start` are written already."""

    def __init__(
        self,
        folder: Path,
        *,
        split: str,
        tokenizer: Tokenizer,
        shard_tokens: int | None,
        options: Mapping[str, Any],
        source_names: Sequence[str],
    ) -> None:
        self.split = split
        self._folder = folder
        self._tokenizer = tokenizer
        self._writer: DatasetWriter | None = None
        if is_finished(folder):
            manifest = load_manifest(folder)
            self._num_documents, self._num_tokens = manifest.num_documents, manifest.num_tokens
            self.start = END
        else:
            self._writer = DatasetWriter(
                folder,
                vocabulary_size=tokenizer.vocabulary_size,
                end_of_text_id=tokenizer.end_of_text_id,
                shard_tokens=shard_tokens,
                options={**options, "split": split},
            )
            self._num_documents = self._writer.resume_point.document
            self.start = _place_to_go_on(self._writer, source_names)

    @property
    def num_documents(self) -> int:
        return self._num_documents

    @property
    def num_tokens(self) -> int:
        return self._writer.num_tokens if self._writer else self._num_tokens

    def append(self, tokens: np.ndarray, source: str, document: SourceDocument) -> None:
        """Add a document at or behind `start`; `tokens` include the closing end-of-text."""
        assert self._writer is not None
        self._num_documents += 1
        self._writer.append(tokens, id=document.id, source=source, row=document.row)

    def finish(self, made: Mapping[str, Any]) -> None:
        """Make the dataset whole; nothing to do where an earlier attempt did."""
        if self._writer is None:
            return
        self._tokenizer.save(self._folder)
        description = TokenizerDescription(
            name=self._tokenizer.name, kind=self._tokenizer.kind, hash=self._tokenizer.hash
        )
        self._writer.finish(tokenizer=description, made={**made, "split": self.split}, files=TOKENIZER_FILES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def _place_to_go_on(writer: DatasetWriter, source_names: Sequence[str]) -> Place:
    """The place of the document that `writer.resume_point` means."""
    for shard in reversed(range(writer.num_shards)):
        documents = pq.read_table(writer.folder / document_file_name(shard), columns=["source", "row"])
        if documents.num_rows:
            last = documents.slice(documents.num_rows - 1).to_pylist()[0]
            row = last["row"] if writer.resume_point.tokens else last["row"] + 1
            if last["source"] not in source_names:
                raise InvalidInputError(
                    f"{writer.folder}: was begun with a source '{last['source']}' that is not given now; "
                    "convert with --restart"
                )
            return Place(source_names.index(last["source"]), row)
    return Place(0, 0)
