"""A tokenizer of the `sentencepiece` library, made from the bytes of a model file (`tokenizer.model`).

A model file is not converted to a `tokenizer.json`: the converted one gives other ids for some texts (57 of 900 hard
strings with Llama-2's, 12 with T5's). So the library that made the model encodes and decodes, and the dataset keeps the
file's bytes.

The library finds user-defined symbols in a text, which is what they are for, and never control symbols such as `</s>`.
The end-of-text token and the pieces that the files beside the model call special are made control symbols in the copy
that encodes, so that no text can give them. Sampling is off.

Lost characters are those of the text under pieces that became unknown. Their offsets say which; a text with unknown
pieces is encoded a second time for them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence, Set
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_data.errors import InvalidInputError
from tst_data.tokenizer.base import CONFIG_NAME, MODEL_NAME, Tokenizer
from tst_data.tokenizer.sentencepiece_messages import as_control_symbols, spans_of_pieces

__all__ = ["SentencePieceTokenizer"]


class SentencePieceTokenizer(Tokenizer):
    """`end_of_text` names the end-of-text token; with None it is the one of the model.

    `special` names pieces that are special whatever the model says, except the unknown piece and bytes, which texts
    need. Raises InvalidInputError where the library cannot read the model, or where there is no such token.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, *, name: str, end_of_text: str | None, special: Set[str] = frozenset()) -> None:
        import sentencepiece

        self.name = name
        self.library = f"sentencepiece {sentencepiece.__version__}"
        self._model = model
        self._decoder = _load(model, name)
        self.vocabulary_size = self._decoder.get_piece_size()
        self.end_of_text_id = self._find_end_of_text(end_of_text)
        self.end_of_text = self._decoder.id_to_piece(self.end_of_text_id)
        self._made_special = self._find_special(special) if special - {self.end_of_text} else frozenset()
        self.configured_special = frozenset(map(self._decoder.id_to_piece, self._made_special))
        identity: dict[str, Any] = {
            "end_of_text_id": self.end_of_text_id,
            "kind": self.kind,
            "model": hashlib.sha256(model).hexdigest(),
        }
        if self._made_special:
            identity["special"] = sorted(self._made_special)
        self.hash = hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def encode_and_count(self, texts: Sequence[str]) -> tuple[list[NDArray[np.uint32]], list[int]]:
        unknown_id = self._encoder.unk_id()
        encoded = [np.array(ids, np.uint32) for ids in self._encoder.encode(list(texts), out_type=int, num_threads=1)]
        lost = [0] * len(texts)
        for index, text in enumerate(texts):
            if (encoded[index] == unknown_id).any():
                offsets = self._encoder.encode(text, out_type="serialized_proto")
                places = np.flatnonzero(encoded[index] == unknown_id).tolist()
                lost[index] = _characters_covered(text.encode(), spans_of_pieces(offsets, places))
        return encoded, lost

    def decode(self, ids: Iterable[int]) -> str:
        text = ""
        for special, run in groupby((int(token) for token in ids), self.reserved_ids.__contains__):
            tokens = list(run)
            # The library writes nothing for control symbols.
            text += "".join(map(self._decoder.id_to_piece, tokens)) if special else self._decoder.decode(tokens)
        return text

    def files(self) -> dict[str, bytes]:
        return {MODEL_NAME: self._model, CONFIG_NAME: self._config(eos_token=self.end_of_text)}

    @cached_property
    def reserved_ids(self) -> frozenset[int]:
        control = (token for token in range(self.vocabulary_size) if self._decoder.is_control(token))
        return frozenset((*control, *self._made_special, self.end_of_text_id))

    @cached_property
    def _encoder(self) -> Any:
        changed = {*self._made_special, self.end_of_text_id}
        if all(map(self._decoder.is_control, changed)):
            return self._decoder
        return _load(as_control_symbols(self._model, changed), self.name)

    def _find_special(self, names: Set[str]) -> frozenset[int]:
        """The pieces with these names that are not special in the model, and that no text needs."""
        model = self._decoder
        named = (token for token in range(self.vocabulary_size) if model.id_to_piece(token) in names)
        return frozenset(
            token
            for token in named
            if token != self.end_of_text_id
            and not (model.is_control(token) or model.is_unknown(token) or model.is_byte(token))
        )

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


def _characters_covered(text: bytes, spans: Iterable[tuple[int, int]]) -> int:
    """Characters of a text that spans cover, each counted once; an empty span covers the character at its place."""
    is_covered = np.zeros(len(text), np.bool_)
    for begin, end in spans:
        is_covered[begin : max(end, begin + 1)] = True
    is_first_byte = np.frombuffer(text, np.uint8) & 0xC0 != 0x80
    return int(np.count_nonzero(is_covered & is_first_byte))
