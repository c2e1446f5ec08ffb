"""Text that others wrote, made safe to show: what a terminal, a log or a browser would obey becomes visible.

A file name, a key or a document may hold escape sequences that move the cursor, characters that turn the direction of
writing, or a line feed that begins a false line. Messages of all errors and whatever the commands print go through
here. Programs (`--json`, problem documents) get the true value, because JSON has escapes of its own.
"""

from __future__ import annotations

import re

__all__ = ["MESSAGE_CHARACTERS", "UNSAFE", "one_line", "visible"]

MESSAGE_CHARACTERS = 2000
"""A longer message is shortened in its middle: its beginning names the place, its end says what to do."""

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters, line separators, marks and overrides of direction, and halves of characters."""

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str) -> str:
    """The text with an escape such as `\\x1b` in place of each unsafe character.

    A byte of a path that is not UTF-8 is `\\xe9`, a character above U+007F is `\\u202e`: no two names look the same
    unless one holds a backslash. A text that was made visible stays as it is.
    """
    return UNSAFE.sub(_escape, text)


def one_line(text: str, limit: int = MESSAGE_CHARACTERS) -> str:
    """`visible`, with at most about `limit` characters: the middle of a longer text is left out."""
    if len(text) > 2 * limit:  # escapes make it longer, never shorter
        text = _shortened(text, 2 * limit)
    return _shortened(visible(text), limit)


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    kept = limit // 2 - 25
    return f"{text[:kept]}... ({len(text) - 2 * kept:,} characters) ...{text[-kept:]}"


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a path that is not UTF-8
        code -= 0xDC00
        return f"\\x{code:02x}"
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}")
