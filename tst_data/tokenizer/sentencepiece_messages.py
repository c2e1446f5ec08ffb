"""The two protocol buffers of sentencepiece that are read here: a model, and an encoded text.

The format is small and has not changed since the first release, and the library's own classes for it need the package
protobuf. Offsets in an encoded text are in bytes with every version; the other forms that the library offers count
bytes or characters by version, or exist in some versions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

__all__ = ["as_control_symbols", "spans_of_pieces"]

_CONTROL = 3
"""Of the type of a piece: normal 1, unknown 2, control 3, user-defined 4, unused 5, byte 6."""


def as_control_symbols(model: bytes, pieces: Set[int]) -> bytes:
    """The model with these pieces made control symbols, which no text gives.

    Field 1 of a model, repeated, is a piece, and field 3 of a piece is its type; of a field that appears twice the last
    value counts.
    """
    changed = bytearray()
    number = -1
    for field, start, content, end in _fields(model):
        number += field == 1
        if field == 1 and number in pieces:
            body = model[content:end] + bytes((3 << 3, _CONTROL))
            changed += model[start : start + 1] + _varint(len(body)) + body
        else:
            changed += model[start:end]
    return bytes(changed)


def spans_of_pieces(encoded: bytes, places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(begin, end) of some pieces of an encoded text, in bytes of the text that was encoded.

    Field 2 of an encoded text, repeated, is a piece, and its fields 4 and 5 are the offsets. Where the normalizer made
    several pieces of one character, all but the last of them begin and end where it begins.
    """
    pieces = [(content, end) for field, _, content, end in _fields(encoded) if field == 2]
    for place in places:
        content, end = pieces[place]
        piece = encoded[content:end]
        offsets = {field: _read_varint(piece, value)[0] for field, _, value, _ in _fields(piece) if field in (4, 5)}
        yield offsets.get(4, 0), offsets.get(5, 0)


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(number of the field, its start, the start of its content, its end) of each field of a protocol buffer."""
    place = 0
    while place < len(message):
        start = place
        tag, place = _read_varint(message, place)
        content = place
        match tag & 7:
            case 0:
                _, place = _read_varint(message, place)
            case 1:
                place += 8
            case 2:
                length, content = _read_varint(message, place)
                place = content + length
            case _:
                place += 4
        yield tag >> 3, start, content, place


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """(the number at a place, the place after it); seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))
