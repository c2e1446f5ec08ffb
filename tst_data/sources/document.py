"""One document as it comes out of a source, and the rules for turning a value of a column into one.

Text travels as UTF-8 bytes, not `str`: files hold bytes, the split into training and validation hashes bytes and
worker processes are sent bytes, so a document is decoded once, by the worker that encodes it. Ready-made token ids
travel as an int64 array. Every error names the place (file, line or row), the rule, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tst_data.errors import InvalidInputError

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "ReadOptions",
    "SourceDocument",
    "check_columns",
    "check_size",
    "checked_utf8",
    "document_id",
    "document_of_value",
]

MAX_DOCUMENT_BYTES = 128 << 20
"""A tokenizer needs about 50 times a text's size to encode it in one piece: 128 MiB are some 6 GB."""


class SourceDocument(NamedTuple):
    """One document: either `text` (UTF-8) or `tokens` (int64) is set. `row` counts from 0 within its source."""

    row: int
    id: str
    text: bytes | None
    tokens: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How documents are found in rows. `passed_over` is called with a message for every text that is not UTF-8;
    None refuses such a text."""

    column: str = "text"
    id_column: str | None = None
    lines: bool = False
    on_skip: Callable[[str], None] | None = None

    @property
    def columns(self) -> list[str]:
        return [self.column] if self.id_column in (None, self.column) else [self.column, str(self.id_column)]

    def refuse_text(self, message: str) -> None:
        """A text that is not valid UTF-8: an error, or one document passed over."""
        if self.on_skip is None:
            raise InvalidInputError(f"{message}; convert it to UTF-8, or pass such texts over with --skip-invalid")
        self.on_skip(message)


def check_columns(place: str, present: Sequence[str], options: ReadOptions) -> None:
    """Refuse a source that lacks a column that was asked for, naming the columns there are, or has it twice."""
    for option, column in (("--column", options.column), ("--id-column", options.id_column)):
        if column is not None and column not in present:
            known = ", ".join(present) or "none"
            raise InvalidInputError(f"{place}: no column '{column}'; choose with {option} from: {known}")
        if column is not None and present.count(column) > 1:
            raise InvalidInputError(f"{place}: column '{column}' stands twice; rename or remove one of the two")


def check_size(place: str, size_bytes: int) -> None:
    """Refuse a document that could not be encoded in one piece."""
    if size_bytes > MAX_DOCUMENT_BYTES:
        raise InvalidInputError(
            f"{place}: document larger than {MAX_DOCUMENT_BYTES >> 20} MiB, the most that is encoded in one piece; "
            "split it (for text files --lines makes each line a document)"
        )


def checked_utf8(place: str, text: bytes, options: ReadOptions) -> bool:
    """True when the bytes are UTF-8; else refused, or False where such texts are passed over."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        options.refuse_text(f"{place}: not UTF-8 at byte {error.start} (0x{text[error.start]:02x})")
        return False
    return True


def document_id(place: str, value: Any, options: ReadOptions) -> str:
    """The id that the id column's value stands for. Whoever names that column relies on it: no id is made up."""
    if value is None:
        raise InvalidInputError(
            f"{place}: id column '{options.id_column}' is null; fill it in, or leave --id-column out (ids are then "
            "SOURCE#ROW)"
        )
    written = str(value)
    try:
        written.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{place}: id column '{options.id_column}' holds a lone surrogate at character {error.start}; correct it"
        ) from None
    return written


def document_of_value(place: str, row: int, name: str, value: Any, options: ReadOptions) -> SourceDocument | None:
    """The document that a column's value stands for: text, or a list of token ids.

    `name` is the document's id; `place` names file and line or row for messages. None where an invalid text is
    passed over.
    """
    if isinstance(value, str):
        try:
            text = value.encode()
        except UnicodeEncodeError as error:
            options.refuse_text(f"{place}: column '{options.column}' holds a lone surrogate at character {error.start}")
            return None
        check_size(place, len(text))
        return SourceDocument(row, name, text, None)
    if value is None:
        raise InvalidInputError(
            f"{place}: column '{options.column}' is null; remove the row, or write an empty text for an empty document"
        )
    if isinstance(value, list) and all(type(item) is int for item in value):
        try:
            return SourceDocument(row, name, None, np.array(value, dtype=np.int64))
        except OverflowError:
            raise InvalidInputError(f"{place}: column '{options.column}' holds a number that is no token id") from None
    raise InvalidInputError(
        f"{place}: column '{options.column}' holds {type(value).__name__}; expected text or a list of token ids"
    )
