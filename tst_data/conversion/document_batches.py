"""The documents of a conversion in order, in batches of about 1 MB for the processes that encode them.

Documents that an earlier attempt has written are skipped: whole files are not opened, and rows are not parsed where
the format allows that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from tst_data.conversion.request import Conversion
from tst_data.conversion.split_writer import SourcePlace, SplitWriter
from tst_data.conversion.splits import TRAINING, split_of
from tst_data.errors import InvalidInputError
from tst_data.sources.document import ReadOptions, SourceDocument
from tst_data.sources.parts import SourcePart

__all__ = ["BATCH_BYTES", "DocumentBatch", "DocumentReader"]

BATCH_BYTES = 1 << 20
"""Text of one batch. A tokenizer needs about 50 times as much memory while it encodes it."""

_DOCUMENT_BYTES = 64
"""Added to the size of each document, so that a batch of empty documents has an end too."""


@dataclass
class DocumentBatch:
    """Documents, each with the writer of its split and the name of its source, and the texts to encode."""

    documents: list[tuple[SplitWriter, str, SourceDocument]] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    """The texts of those documents that have no token ids yet, in order."""
    size_bytes: int = 0
    bytes_done: int = 0
    """Bytes of the sources that were read up to the end of this batch."""

    def add(self, writer: SplitWriter, source: str, document: SourceDocument) -> None:
        self.documents.append((writer, source, document))
        if document.text is not None:
            self.texts.append(document.text)
            self.size_bytes += len(document.text) + _DOCUMENT_BYTES
        elif document.tokens is not None:
            self.size_bytes += document.tokens.nbytes + _DOCUMENT_BYTES

    def place(self, text: int) -> str:
        """Source and row of one of `texts`."""
        with_text = (place for place in self.documents if place[2].text is not None)
        _, source, document = next(islice(with_text, text, None))
        return f"{source}: row {document.row}"


class DocumentReader:
    """Reads the parts of the sources in order. `num_skipped` counts the documents that are not UTF-8."""

    def __init__(self, conversion: Conversion, parts: Sequence[SourcePart]) -> None:
        self._conversion = conversion
        self._parts = parts
        self.num_skipped = 0

    def bytes_before(self, place: SourcePlace) -> int:
        """Bytes of all files and datasets before the one of a place."""
        return sum(part.size_bytes for part in self._parts[: place.part])

    def batches(self, writers: Mapping[str, SplitWriter]) -> Iterator[DocumentBatch]:
        """The documents that are not yet written, in batches; `writers` by split."""
        start = min(writer.start for writer in writers.values())
        bytes_done = self.bytes_before(start)
        batch = DocumentBatch()
        for number in range(start.part, len(self._parts)):
            part = self._parts[number]
            first_row = start.row if number == start.part else 0
            for document in part.read(self._options(), first_row):
                writer = writers[split_of(document, self._conversion.validation)]
                # The two datasets end at different documents, and reading starts at the earlier one.
                if SourcePlace(number, document.row) >= writer.start:
                    batch.add(writer, part.name, document)
                if batch.size_bytes >= BATCH_BYTES:
                    batch.bytes_done = bytes_done + part.bytes_read
                    yield batch
                    batch = DocumentBatch()
            bytes_done += part.size_bytes
        if batch.documents:
            batch.bytes_done = bytes_done
            yield batch

    def training_texts(self, report: Callable[[int], None]) -> Iterator[bytes]:
        """The text of every training document, for training a tokenizer; `report` is given the bytes read so far."""
        bytes_done = 0
        reported = 0
        for part in self._parts:
            for document in part.read(self._options()):
                if document.text is None:
                    raise InvalidInputError(
                        f"{part.name}: row {document.row} holds token ids, but train: needs text; give the tokenizer "
                        "that made the ids with --tokenizer"
                    )
                if split_of(document, self._conversion.validation) == TRAINING:
                    yield document.text
                if bytes_done + part.bytes_read >= reported + BATCH_BYTES:
                    reported = bytes_done + part.bytes_read
                    report(reported)
            bytes_done += part.size_bytes

    def _options(self) -> ReadOptions:
        return ReadOptions(
            column=self._conversion.column,
            id_column=self._conversion.id_column,
            lines=self._conversion.lines,
            on_skip=self._count_skipped if self._conversion.skip_invalid else None,
        )

    def _count_skipped(self, message: str) -> None:
        self.num_skipped += 1
