"""A tokenizer of the `tokenizers` library, made from the content of a `tokenizer.json`.

It runs without the truncation, padding and special tokens that the file asks for: text that contains
`<|endoftext|>` stays text, and only the ids of the text come out.

The hash is taken from the JSON as it was found, and not as the installed library would write it, because library
versions differ in that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_data.errors import InvalidInputError
from tst_data.tokenizer.base import CONFIG_NAME, Tokenizer

__all__ = ["JSONTokenizer"]

_WELL_KNOWN_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<end_of_text>")


class JSONTokenizer(Tokenizer):
    """`end_of_text` names the end-of-text token; with None it is searched for among the usual names.

    Raises InvalidInputError where the library cannot read the definition, or where no end-of-text token is found.
    """

    def __init__(self, definition: dict[str, Any], *, name: str, kind: str, end_of_text: str | None) -> None:
        from tokenizers import Tokenizer as LibraryTokenizer

        self.name = name
        self.kind = kind
        self._definition = {**definition, "truncation": None, "padding": None}
        try:
            self._library = LibraryTokenizer.from_str(json.dumps(self._definition))
        except Exception as error:  # the library raises a bare Exception
            reason = " ".join(str(error).split())
            raise InvalidInputError(
                f"tokenizer {name}: is not a valid tokenizer.json ({reason}); give another one"
            ) from error
        vocabulary: dict[str, int] = self._library.get_vocab(with_added_tokens=True)
        self.vocabulary_size = max(vocabulary.values(), default=-1) + 1
        self.end_of_text = _find_end_of_text(name, vocabulary, end_of_text)
        self.end_of_text_id = vocabulary[self.end_of_text]
        canonical = json.dumps(
            [self._definition, self.end_of_text_id], sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        self.hash = hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()
        self._make_special(self.end_of_text)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [np.fromiter(encoding.ids, np.uint32, len(encoding)) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._library.decode([int(token) for token in ids], skip_special_tokens=False))

    def definition(self) -> dict[str, Any]:
        return self._definition

    def _make_special(self, token: str) -> None:
        """The library finds a token in the text of a document, unless the token is marked as special."""
        from tokenizers import AddedToken

        self._library.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        self._library.encode_special_tokens = True


def _find_end_of_text(name: str, vocabulary: dict[str, int], wanted: str | None) -> str:
    if wanted is not None:
        if wanted in vocabulary:
            return wanted
        raise InvalidInputError(
            f"tokenizer {name}: end-of-text token '{wanted}' is not in its vocabulary; name another with --end-of-text"
        )
    for token in _WELL_KNOWN_END_OF_TEXT:
        if token in vocabulary:
            return token
    raise InvalidInputError(
        f"tokenizer {name}: no end-of-text token found (no eos_token in {CONFIG_NAME}, none of "
        f"{', '.join(_WELL_KNOWN_END_OF_TEXT)}); name it with --end-of-text"
    )
