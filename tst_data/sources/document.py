"""One document as it comes out of a source, and the rules that turn the value of a column into one.

Text is kept as UTF-8 bytes, not as `str`: files hold bytes, the split into training and validation hashes bytes, and
worker processes receive bytes. So a document is decoded once, by the worker that encodes it. Token ids that are ready
are an int64 array. Every error names the place (file, line or row), the rule, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    "json_kind",
]

MAX_DOCUMENT_BYTES = 128 << 20
"""To encode a document in one piece, a tokenizer needs about 50 times its size as memory: about 6 GB for 128 MiB."""

_JSON_KINDS = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "a string",
}


class SourceDocument(NamedTuple):
    """One document: either `text` (UTF-8) or `tokens` is set. `row` counts from 0 within its source."""

    row: int
    id: str
    text: bytes | None
    tokens: NDArray[np.int64] | None


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How documents are found in files and rows."""

    column: str = "text"
    """Column that holds the text or the token ids."""
    id_column: str | None = None
    """Column that holds the ids of the documents. Without it an id is SOURCE#ROW."""
    lines: bool = False
    """Whether each line of a text file is a document."""
    on_skip: Callable[[str], None] | None = None
    """Called with a message for every document that is not UTF-8, which is then skipped. None refuses it."""

    @property
    def columns(self) -> list[str]:
        return [self.column] if self.id_column in (None, self.column) else [self.column, str(self.id_column)]

    def refuse_text(self, message: str) -> None:
        """Refuse or skip a document that is not UTF-8."""
        if self.on_skip is None:
            raise InvalidInputError(f"{message}; convert it to UTF-8, or skip such texts with --skip-invalid")
        self.on_skip(message)


def check_columns(place: str, present: Sequence[str], options: ReadOptions) -> None:
    """Refuse a source that lacks a column that was asked for (the message names the others) or has it twice."""
    for option, column in (("--column", options.column), ("--id-column", options.id_column)):
        if column is not None and column not in present:
            known = ", ".join(present) or "none"
            raise InvalidInputError(f"{place}: no column '{column}'; choose with {option} from: {known}")
        if column is not None and present.count(column) > 1:
            raise InvalidInputError(f"{place}: column '{column}' appears twice; rename or remove one of the two")


def check_size(place: str, size_bytes: int) -> None:
    """Refuse a document that could not be encoded in one piece."""
    if size_bytes > MAX_DOCUMENT_BYTES:
        raise InvalidInputError(
            f"{place}: the document is larger than {MAX_DOCUMENT_BYTES >> 20} MiB, the most that is encoded in one "
            "piece; split it (--lines makes each line of a text file a document)"
        )


def checked_utf8(place: str, text: bytes, options: ReadOptions) -> bool:
    """Whether the bytes are UTF-8. Other bytes are refused, unless the options say to skip them."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        options.refuse_text(f"{place}: not UTF-8 at byte {error.start} (0x{text[error.start]:02x})")
        return False
    return True


def document_id(place: str, value: Any, options: ReadOptions) -> str:
    """The id in the id column. A user who names that column relies on it, so null is refused and no id is invented."""
    if value is None:
        raise InvalidInputError(
            f"{place}: id column '{options.id_column}' is null; fill it in, or leave --id-column out (an id is then "
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
    """The document in a column's value, which is text or a list of token ids; None where an invalid text is skipped.

    `name` is the id of the document; `place` names file and line or row for messages.
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
            f"{place}: column '{options.column}' is null; remove the row, or write an empty string for an empty "
            "document"
        )
    if isinstance(value, list) and all(type(item) is int for item in value):
        try:
            return SourceDocument(row, name, None, np.array(value, dtype=np.int64))
        except OverflowError:
            raise InvalidInputError(
                f"{place}: column '{options.column}' holds a number that is not a token id; correct it"
            ) from None
    found = "a list with values that are not whole numbers" if isinstance(value, list) else json_kind(value)
    raise InvalidInputError(
        f"{place}: column '{options.column}' holds {found}, expected text or a list of token ids; correct it, or "
        "choose another --column"
    )


def json_kind(value: Any) -> str:
    """What a value is in the words of JSON."""
    return "null" if value is None else _JSON_KINDS.get(type(value), type(value).__name__)
