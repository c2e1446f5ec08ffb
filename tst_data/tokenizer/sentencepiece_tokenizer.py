"""A tokenizer of the `sentencepiece` library, made from the bytes of a model file (`tokenizer.model`).

A model file is not converted to a `tokenizer.json`: the converted one gives other ids for some texts (57 of 900 hard
strings with Llama-2's, 12 with T5's). So the library that made the model encodes and decodes, and the dataset keeps the
file's bytes.

The library finds user-defined symbols in a text, which is what they are for, and never control symbols such as `</s>`.
An end-of-text token that is not a control symbol is made one in the copy that encodes, so that no text can give it.
Sampling is off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_data.errors import InvalidInputError
from tst_data.tokenizer.base import CONFIG_NAME, MODEL_NAME, Tokenizer, json_file

__all__ = ["SentencePieceTokenizer"]

_CONTROL = 3
"""Of the type of a piece: normal 1, unknown 2, control 3, user-defined 4, unused 5, byte 6."""


class SentencePieceTokenizer(Tokenizer):
    """`end_of_text` names the end-of-text token; with None it is the one of the model.

    Raises InvalidInputError where the library cannot read the model, or where there is no such token.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, *, name: str, end_of_text: str | None) -> None:
        import sentencepiece

        self.name = name
        self.library = f"sentencepiece {sentencepiece.__version__}"
        self._model = model
        self._decoder = _load(model, name)
        self.vocabulary_size = self._decoder.get_piece_size()
        self.end_of_text_id = self._find_end_of_text(end_of_text)
        self.end_of_text = self._decoder.id_to_piece(self.end_of_text_id)
        identity = {
            "end_of_text_id": self.end_of_text_id,
            "kind": self.kind,
            "model": hashlib.sha256(model).hexdigest(),
        }
        self.hash = hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def encode_and_count(self, texts: Sequence[str]) -> tuple[list[NDArray[np.uint32]], list[int]]:
        unknown_id = self._encoder.unk_id()
        encoded = [np.array(ids, np.uint32) for ids in self._encoder.encode(list(texts), out_type=int, num_threads=1)]
        lost = [0] * len(texts)
        for index, text in enumerate(texts):
            if (encoded[index] == unknown_id).any():
                pieces = self._encoder.encode(text, out_type=str)  # an unknown piece is written as its characters
                lost[index] = sum(len(pieces[place]) for place in np.flatnonzero(encoded[index] == unknown_id))
        return encoded, lost

    def decode(self, ids: Iterable[int]) -> str:
        text = ""
        for special, run in groupby((int(token) for token in ids), self.reserved_ids.__contains__):
            tokens = list(run)
            # The library writes nothing for control symbols.
            text += "".join(map(self._decoder.id_to_piece, tokens)) if special else self._decoder.decode(tokens)
        return text

    def files(self) -> dict[str, bytes]:
        config = {"eos_token": self.end_of_text, "tst_data": {"name": self.name, "kind": self.kind}}
        return {MODEL_NAME: self._model, CONFIG_NAME: json_file(config)}

    @cached_property
    def reserved_ids(self) -> frozenset[int]:
        control = (token for token in range(self.vocabulary_size) if self._decoder.is_control(token))
        return frozenset((*control, self.end_of_text_id))

    @cached_property
    def _encoder(self) -> Any:
        if self._decoder.is_control(self.end_of_text_id):
            return self._decoder
        return _load(_as_control_symbol(self._model, self.end_of_text_id), self.name)

    def _find_end_of_text(self, wanted: str | None) -> int:
        if wanted is None:
            found = int(self._decoder.eos_id())
            if found < 0:
                raise InvalidInputError(
                    f"tokenizer {self.name}: the model has no end-of-text token; name one of its pieces with "
                    "--end-of-text"
                )
            return found
        found = int(self._decoder.piece_to_id(wanted))
        if self._decoder.id_to_piece(found) != wanted:
            raise InvalidInputError(
                f"tokenizer {self.name}: end-of-text token '{wanted}' is not in its vocabulary; name another with "
                "--end-of-text"
            )
        if found == self._decoder.unk_id() or self._decoder.is_byte(found):
            raise InvalidInputError(
                f"tokenizer {self.name}: end-of-text token '{wanted}' stands for unknown text or a byte, so a text can "
                "hold it; name another with --end-of-text"
            )
        return found


def _load(model: bytes, name: str) -> Any:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except Exception as error:  # RuntimeError, and others in other versions
        raise InvalidInputError(
            f"tokenizer {name}: is not a model of sentencepiece; give another one, or a tokenizer.json"
        ) from error
    if not processor.get_piece_size():
        raise InvalidInputError(f"tokenizer {name}: is an empty model; give another one")
    return processor


def _as_control_symbol(model: bytes, piece: int) -> bytes:
    """The model with one piece made a control symbol.

    A model is a protocol buffer. Its field 1, repeated, is a piece, and field 3 of a piece is its type; of a field that
    appears twice the last value counts.
    """
    changed = bytearray()
    number = 0
    for field, start, content, end in _fields(model):
        if field == 1:
            if number == piece:
                body = model[content:end] + bytes((3 << 3, _CONTROL))
                changed += model[start : start + 1] + _varint(len(body)) + body
                number += 1
                continue
            number += 1
        changed += model[start:end]
    return bytes(changed)


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
