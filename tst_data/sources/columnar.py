"""Documents from Parquet files, Arrow files and streams, and Hugging Face datasets, one record batch at a time.

A batch holds about 4 MB of the columns that are read, so memory depends neither on the size of the file nor on the
number of rows in its row groups. Row groups and batches before the first row that is needed are skipped by their
metadata, without decoding. Compressed files of these formats (rare, since the formats compress inside) are first
unpacked to an unnamed temporary file, because their readers seek.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tst_data.errors import InvalidInputError
from tst_data.sources.compression import open_stream
from tst_data.sources.document import (
    ReadOptions,
    SourceDocument,
    check_columns,
    check_size,
    document_id,
    document_of_value,
)

__all__ = ["documents_of_batches", "read_arrow", "read_parquet"]

Advance = Callable[[float], None]
"""Called with the share of the file that has been read, 0 to 1."""

_BATCH_BYTES = 4 << 20
_MAX_BATCH_ROWS = 4096


def read_parquet(
    path: Path, name: str, compression: str | None, options: ReadOptions, start_row: int, advance: Advance
) -> Iterator[SourceDocument]:
    """The rows of a Parquet file from `start_row`."""
    with _seekable(path, name, compression) as file, _malformed(name, "Parquet"):
        parquet = pq.ParquetFile(file)
        check_columns(name, parquet.schema_arrow.names, options)
        for column in options.columns[:1]:
            check_type(name, column, parquet.schema_arrow.field(column).type)
        metadata = parquet.metadata
        first_row = 0
        for group in range(metadata.num_row_groups):
            num_rows = metadata.row_group(group).num_rows
            if first_row + num_rows > start_row:
                size_bytes = metadata.row_group(group).total_byte_size
                batch_rows = int(max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * num_rows // max(1, size_bytes))))
                batches = parquet.iter_batches(batch_rows, row_groups=[group], columns=options.columns)
                yield from documents_of_batches(name, ((b, b.num_rows) for b in batches), options, start_row, first_row)
            first_row += num_rows
            advance(first_row / metadata.num_rows if metadata.num_rows else 1.0)


def read_arrow(
    path: Path, name: str, compression: str | None, options: ReadOptions, start_row: int, advance: Advance
) -> Iterator[SourceDocument]:
    """The rows of an Arrow IPC file (Feather) or IPC stream from `start_row`."""
    with _seekable(path, name, compression) as file, _malformed(name, "Arrow"):
        size_bytes = max(1, file.seek(0, 2))
        file.seek(0)
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        check_columns(name, reader.schema.names, options)
        check_type(name, options.column, reader.schema.field(options.column).type)

        def batches() -> Iterator[tuple[pa.RecordBatch, int]]:
            for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
                for offset in range(0, max(1, batch.num_rows), _MAX_BATCH_ROWS):
                    piece = batch.slice(offset, _MAX_BATCH_ROWS)
                    yield piece.select(options.columns), piece.num_rows
                advance(file.tell() / size_bytes)

        yield from documents_of_batches(name, batches(), options, start_row)


def check_type(name: str, column: str, kind: pa.DataType) -> None:
    """Refuse a column that holds neither text nor lists of whole numbers."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value):
        return
    if _is_list(value) and pa.types.is_integer(value.value_type):
        return
    raise InvalidInputError(
        f"{name}: column '{column}' has the type {kind}, expected text or lists of token ids; choose another --column"
    )


def documents_of_batches(
    name: str,
    batches: Iterator[tuple[Any, int]],
    options: ReadOptions,
    start_row: int,
    first_row: int = 0,
) -> Iterator[SourceDocument]:
    """The documents in pairs of (record batch or table, number of its rows), of which the first row is `first_row`."""
    for batch, num_rows in batches:
        skip = max(0, start_row - first_row)
        if skip < num_rows:
            texts = batch.column(options.column)
            ids = batch.column(options.id_column) if options.id_column else None
            for index in range(skip, num_rows):
                row = first_row + index
                place = f"{name}: row {row}"
                id_of_row = f"{name}#{row}" if ids is None else _id(place, ids[index], options)
                document = _document(place, row, id_of_row, texts[index], options)
                if document is not None:
                    yield document
        first_row += num_rows


def _id(place: str, scalar: Any, options: ReadOptions) -> str:
    try:
        value = scalar.as_py()
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{place}: id column '{options.id_column}' is not UTF-8 at byte {error.start}; convert it to UTF-8"
        ) from None
    return document_id(place, value, options)


def _document(place: str, row: int, name: str, scalar: Any, options: ReadOptions) -> SourceDocument | None:
    if _is_list(scalar.type) and scalar.is_valid:
        values = scalar.values
        if values.null_count:
            raise InvalidInputError(f"{place}: column '{options.column}' holds a null among its token ids; remove it")
        check_size(place, values.nbytes)
        try:
            tokens = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            raise InvalidInputError(
                f"{place}: column '{options.column}' holds a number that is not a token id; correct it"
            ) from None
        return SourceDocument(row, name, None, np.ascontiguousarray(tokens))
    try:
        value = scalar.as_py()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        options.refuse_text(f"{place}: not UTF-8 at byte {error.start} (0x{byte:02x})")
        return None
    return document_of_value(place, row, name, value, options)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


@contextmanager
def _seekable(path: Path, name: str, compression: str | None) -> Iterator[Any]:
    if compression is None:
        with open(path, "rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as unpacked:
        with open_stream(path, name, compression) as stream:
            shutil.copyfileobj(stream.unpacked, unpacked, 1 << 20)
        unpacked.seek(0)
        yield unpacked


@contextmanager
def _malformed(name: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())
        raise InvalidInputError(f"{name}: malformed {kind} file ({reason}); fetch or write it again") from error
