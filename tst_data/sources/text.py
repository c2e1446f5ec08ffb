"""Documents from text, JSONL and CSV files: the bytes are cut into lines, with one document in memory at a time.

Lines are counted here and decoded one by one, so that a message can name the line that is not UTF-8 or not JSON. The
modules `csv` and `json` read 100 to 200 MB/s, ten times what one core tokenizes. The readers of pyarrow are faster,
but they cannot say where a file is broken.

A byte order mark at the start of a file is not part of its text. A blank line is not a document.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

from tst_data.errors import InvalidInputError
from tst_data.sources.compression import SourceStream
from tst_data.sources.document import (
    MAX_DOCUMENT_BYTES,
    ReadOptions,
    SourceDocument,
    check_columns,
    check_size,
    checked_utf8,
    document_id,
    document_of_value,
    json_kind,
)

__all__ = ["read_csv", "read_jsonl", "read_text"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_LINE_BYTES = 8 * MAX_DOCUMENT_BYTES
"""A line may be longer than its document: JSON may escape every character, and there may be other columns."""


def read_text(stream: SourceStream, name: str, options: ReadOptions, start_row: int) -> Iterator[SourceDocument]:
    """A whole file as one document, or each of its lines."""
    if options.lines:
        for number, line in _lines(stream, name):
            text = line.removesuffix(b"\n").removesuffix(b"\r")
            if number <= start_row or not text:
                continue
            place = f"{name}: line {number}"
            check_size(place, len(text))
            if checked_utf8(place, text, options):
                yield SourceDocument(number - 1, f"{name}#{number - 1}", text, None)
    elif start_row == 0:
        text = _read_all(stream, name)
        if checked_utf8(name, text, options):
            yield SourceDocument(0, name, text.removeprefix(_BYTE_ORDER_MARK), None)


def read_jsonl(stream: SourceStream, name: str, options: ReadOptions, start_row: int) -> Iterator[SourceDocument]:
    """One JSON object per line; the row of a document is its line, counted from 0."""
    for number, line in _lines(stream, name):
        if number <= start_row or line.isspace():
            continue
        place = f"{name}: line {number}"
        if not checked_utf8(place, line, options):
            continue
        try:
            record = _JSON.decode(line.strip().decode())
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise InvalidInputError(f"{place}: is not JSON ({reason}); write one JSON object per line") from error
        if not isinstance(record, dict):
            raise InvalidInputError(
                f"{place}: holds {json_kind(record)}, expected an object; write one JSON object per line"
            )
        check_columns(place, record.keys_written if isinstance(record, _RepeatedKeys) else list(record), options)
        id_of_row = f"{name}#{number - 1}"
        if options.id_column:
            id_of_row = document_id(place, record[options.id_column], options)
        document = document_of_value(place, number - 1, id_of_row, record[options.column], options)
        if document is not None:
            yield document


class _RepeatedKeys(dict[str, Any]):
    """A JSON object in which a key appears twice."""

    keys_written: list[str]
    """All keys as the file has them."""


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        record = _RepeatedKeys(record)
        record.keys_written = [key for key, _ in pairs]
    return record


_JSON = json.JSONDecoder(object_pairs_hook=_record)


def read_csv(
    stream: SourceStream, name: str, options: ReadOptions, start_row: int, delimiter: str
) -> Iterator[SourceDocument]:
    """A CSV file with a header line, quoted as RFC 4180 says; the row of a document counts records from 0."""
    csv.field_size_limit(_MAX_LINE_BYTES)
    undecodable: list[str] = []
    reader = csv.reader(_decoded_lines(stream, name, undecodable), delimiter=delimiter, strict=True)
    records = filter(None, reader)  # a blank line is an empty record
    try:
        header = next(records, None)
        if header is None:
            return
        _refuse_undecodable(undecodable, options=ReadOptions())
        check_columns(name, header, options)
        text_index = header.index(options.column)
        id_index = header.index(options.id_column) if options.id_column else None
        for row, record in enumerate(records):
            place = f"{name}: line {reader.line_num}"
            if row < start_row:
                undecodable.clear()
                continue
            if undecodable:
                _refuse_undecodable(undecodable, options)
                continue
            if len(record) != len(header):
                raise InvalidInputError(
                    f"{place}: {len(record)} fields, but the header has {len(header)}; quote fields that hold "
                    f"{'tabs' if delimiter == chr(9) else 'commas'} or line breaks"
                )
            id_of_row = f"{name}#{row}" if id_index is None else record[id_index]
            document = document_of_value(place, row, id_of_row, record[text_index], options)
            if document is not None:
                yield document
    except csv.Error as error:
        raise InvalidInputError(f"{name}: line {reader.line_num}: malformed CSV ({error}); correct the line") from error


def _read_all(stream: SourceStream, name: str) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    while part := stream.read(1 << 20):
        parts.append(part)
        size_bytes += len(part)
        check_size(name, size_bytes)
    return b"".join(parts)


def _lines(stream: SourceStream, name: str) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, the line with its line break) of a stream."""
    number = 0
    while line := stream.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > _MAX_LINE_BYTES:
            check_size(f"{name}: line {number}", len(line))
        yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def _decoded_lines(stream: SourceStream, name: str, undecodable: list[str]) -> Iterator[str]:
    """Lines as text. A line that is not UTF-8 adds a message to `undecodable`: only the CSV reader knows its record."""
    for number, line in _lines(stream, name):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            byte = line[error.start]
            undecodable.append(f"{name}: line {number}: not UTF-8 at byte {error.start} of the line (0x{byte:02x})")
            yield line.decode(errors="replace")


def _refuse_undecodable(undecodable: list[str], options: ReadOptions) -> None:
    if undecodable:
        message = undecodable[0]
        undecodable.clear()
        options.refuse_text(message)
