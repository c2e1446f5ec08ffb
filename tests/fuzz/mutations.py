"""Strategies for inputs that are nearly right: valid bytes that are flipped, cut, doubled, spliced, or hold extremes.

Bytes made at random rarely get past the first check of a parser. A change of a valid input reaches all of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from hypothesis import strategies as st

__all__ = ["inputs"]

EXTREMES = [
    b"-1", b"0", b"-0", b"1", b"2", b"255", b"65536", b"4294967296", b"9223372036854775808", b"18446744073709551616",
    b"9" * 400, b"9" * 5000, b"0x" + b"f" * 5000, b"1e3", b"1e999", b"-1e-999", b"0.5", b".5", b"1.", b"010", b"0o7",
    b"1_000", b"1:30", b"2026-13-41", b"NaN", b".nan", b"-.inf", b"Infinity", b"null", b"~", b"true", b"no", b"yes",
    b'""', b"''", b'"x"', b'"\\ud800"', b'"\\u0000"', b'"\x1b[31m"', b'"' + b"x" * 3000 + b'"', b'"~nosuchuser/x"',
    b"[]", b"{}", b"[" * 70, b"[" * 3000, b"{" * 70, b'{"a":' * 1200, b"- " * 300, b"? " * 300, b"[1, [2, [3]]]",
    b"&a ", b"*a", b"<<: ", b"<<: *a\n", b"!!str ", b"!!python/object:os.system ", b"!", b"---\n", b"...\n",
    b"%YAML 1.1\n---\n", b"%TAG ! tag:x,1:\n---\n", b"# \n", b"|\n", b">-\n  ", b": ", b",", b"}", b"]", b"\n", b"\t",
    b"\r", b"\0", b"\x85", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xf0\x9f\x92\xa9", b"\\", b'"', b"'",
    b"../" * 40, b"/dev/zero", b"hash", b"record", b"datasets", b"phases", b"weights", b"format_version", b"files",
]  # fmt: skip
"""What parsers trip over: numbers at the ends of types, other spellings, nesting, control bytes, half characters."""

SCALAR = re.compile(rb'"(?:[^"\\]|\\.)*"|[A-Za-z0-9_.+-]+')
"""A key or a value in JSON or YAML."""

KINDS = ["bit", "byte", "cut", "delete", "double", "splice", "insert", "replace", "replace", "replace"]

changes = st.lists(st.integers(0, (1 << 64) - 1), max_size=3)
"""Each number is a change: what, where, and how."""


def inputs(valid: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Changed forms of the valid inputs, and now and then any bytes or text at all."""
    changed = st.builds(changed_input, st.sampled_from(valid), st.sampled_from(valid), changes)
    anything = st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass"))
    return st.one_of(changed, changed, changed, changed, changed, changed, changed, anything)


def changed_input(data: bytes, other: bytes, changes: Sequence[int]) -> bytes:
    """The input with each change made after the one before."""
    for change in changes:
        digest = hashlib.blake2b(change.to_bytes(8, "little"), digest_size=16).digest()
        kind, extreme, first, second = (int.from_bytes(digest[at : at + 4], "little") for at in (0, 4, 8, 12))
        data = _changed(data, other, KINDS[kind % len(KINDS)], EXTREMES[extreme % len(EXTREMES)], first, second)
    return data


def _changed(data: bytes, other: bytes, kind: str, extreme: bytes, first: int, second: int) -> bytes:
    place = first % (len(data) + 1)
    end = min(len(data), place + 1 + second % 64)
    if kind == "replace":
        found = list(SCALAR.finditer(data))
        if found:
            place, end = found[first % len(found)].span()
        return data[:place] + extreme + data[end:]
    if kind == "bit" and place < len(data):
        return data[:place] + bytes([data[place] ^ 1 << second % 8]) + data[place + 1 :]
    if kind == "byte" and place < len(data):
        return data[:place] + bytes([second % 256]) + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    if kind == "delete":
        return data[:place] + data[end:]
    if kind == "double":
        return data[:end] + data[place:]
    if kind == "splice":
        return data[:place] + other[second % (len(other) + 1) :]
    return data[:place] + extreme + data[place:]
