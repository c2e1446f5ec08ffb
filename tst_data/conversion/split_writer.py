"""Writing one split of a conversion, the training or the validation dataset, and where it continues in the sources.

A writer that continues an interrupted attempt knows how many documents it has. That number does not say where in the
sources to continue, because only some of the documents belong to this split. The document index says it: after the
document that was begun last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow.parquet as pq

from tst_data.conversion.local_engine import EncodedText
from tst_data.conversion.lost_characters import CharacterCounts, CountFile
from tst_data.dataset.layout import DEFAULT_SAMPLE_TOKENS, default_shard_tokens
from tst_data.dataset.manifest import TokenizerDescription, document_file_name, dtype_for, is_finished, load_manifest
from tst_data.dataset.writer import DatasetWriter
from tst_data.errors import InvalidInputError
from tst_data.sources.document import SourceDocument
from tst_data.tokenizer.base import Tokenizer

__all__ = ["END", "SourcePlace", "SplitWriter", "counts_of"]


class SourcePlace(NamedTuple):
    """Where a document is: the number of the file or dataset among the sources, and the row in it."""

    part: int
    row: int


END = SourcePlace(1 << 62, 0)
"""After all documents."""


class SplitWriter:
    """Writes the dataset of one split. Its documents before `start` are written already.

    `count_file` holds the character counts of its documents until the dataset is finished.
    """

    def __init__(
        self,
        folder: Path,
        *,
        split: str,
        tokenizer: Tokenizer,
        shard_tokens: int | None,
        options: Mapping[str, Any],
        source_names: Sequence[str],
        count_file: Path,
    ) -> None:
        self.split = split
        self._folder = folder
        self._tokenizer = tokenizer
        self._writer: DatasetWriter | None = None
        if is_finished(folder):
            manifest = load_manifest(folder)
            self._num_documents, self._num_tokens = manifest.num_documents, manifest.num_tokens
            self.counts = counts_of(manifest.made)
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
            self.start = _place_to_continue(self._writer, source_names)
            self._count_file = CountFile(count_file, self._num_documents)
            self.counts = self._count_file.counts
            self._shard_tokens = shard_tokens or default_shard_tokens(
                dtype_for(tokenizer.vocabulary_size), DEFAULT_SAMPLE_TOKENS
            )
            self._tokens_in_buffer = -self._writer.resume_point.tokens

    @property
    def num_documents(self) -> int:
        return self._num_documents

    @property
    def num_tokens(self) -> int:
        return self._writer.num_tokens if self._writer else self._num_tokens

    @property
    def has_shards(self) -> bool:
        """Whether a later attempt would not have to write everything again."""
        return self._writer is None or self._writer.num_shards > 0

    def append(self, encoded: EncodedText, source: str, document: SourceDocument) -> None:
        """Add a document at or after `start`."""
        assert self._writer is not None
        self._num_documents += 1
        self._count_file.add(encoded.characters, encoded.lost)
        self._tokens_in_buffer += len(encoded.tokens)
        if self._tokens_in_buffer >= self._shard_tokens:  # the writer commits a shard now
            self._count_file.sync()
            self._tokens_in_buffer %= self._shard_tokens
        self._writer.append(encoded.tokens, id=document.id, source=source, row=document.row)

    def finish(self, made: Mapping[str, Any]) -> None:
        """Finish the dataset, if an earlier attempt has not done so."""
        if self._writer is None:
            return
        self._count_file.sync()
        self._tokenizer.save(self._folder)
        description = TokenizerDescription(
            name=self._tokenizer.name, kind=self._tokenizer.kind, hash=self._tokenizer.hash
        )
        counts = {"characters": self.counts.characters, "lost_characters": self.counts.lost}
        self._writer.finish(
            tokenizer=description, made={**made, "split": self.split, **counts}, files=self._tokenizer.files()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._count_file.close()
            self._writer.close()


def counts_of(made: Mapping[str, Any]) -> CharacterCounts:
    """The counts in a manifest; zero where the dataset was made before characters were counted."""
    return CharacterCounts(made.get("characters", 0), made.get("lost_characters", 0))


def _place_to_continue(writer: DatasetWriter, source_names: Sequence[str]) -> SourcePlace:
    """The place of the document at which `writer.resume_point` is."""
    for shard in reversed(range(writer.num_shards)):
        with (writer.folder / document_file_name(shard)).open("rb") as file:  # a path that is not UTF-8 works too
            documents = pq.read_table(file, columns=["source", "row"])
        if documents.num_rows:
            last = documents.slice(documents.num_rows - 1).to_pylist()[0]
            # Where only the first tokens of that document are in finished shards, it is read again.
            row = last["row"] if writer.resume_point.tokens else last["row"] + 1
            if last["source"] not in source_names:
                raise InvalidInputError(
                    f"{writer.folder}: was begun with a source '{last['source']}' that is not given now; "
                    "convert with --restart"
                )
            return SourcePlace(source_names.index(last["source"]), row)
    return SourcePlace(0, 0)
