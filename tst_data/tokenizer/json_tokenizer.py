"""A tokenizer of the `tokenizers` library, made from the content of a `tokenizer.json`.

It runs without the truncation, padding, dropout and special tokens that the file asks for: text that contains
`<|endoftext|>` stays text, only the ids of the text come out, and two encodings of one text are equal. Texts are
encoded with a copy of the definition in which no text can spell a special token (`working_copy`), and decoded with the
definition itself. The copy is made when it is first needed: a server never encodes.

The hash is taken from the JSON as it was found, and not as the installed library would write it, because library
versions differ in that. Special tokens that only the files beside it name are in the hash too: a text that spells one
has other ids with them.

Lost characters are those of the text that an unknown token covers, which its offsets tell. The library takes half as
long again with offsets as without, so it is asked for them where most texts of the last batch had unknown tokens;
otherwise a text with unknown tokens is encoded a second time. A model that knows every byte loses nothing, which its
definition proves once; so GPT-2's tokenizer and `train:4096` are not slower for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tst_data.errors import InvalidInputError
from tst_data.tokenizer.base import CONFIG_NAME, DefinedTokenizer
from tst_data.tokenizer.working_copy import (
    byte_pieces,
    is_lossless,
    needs_other_names,
    new_prefix,
    special_tokens,
    unknown_token,
    with_unknown_token,
    without_special_names,
)

__all__ = ["JSONTokenizer", "library_version"]

_WELL_KNOWN_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<end_of_text>")


def library_version() -> str:
    """Name and version of the library. Versions differ in the ids of some texts: 0.21 and 0.22 on 562 code points."""
    import tokenizers

    return f"tokenizers {tokenizers.__version__}"


class _Encoder(NamedTuple):
    """What encodes: two objects of the library, and an id that means lost characters."""

    ids: Any
    """Gives the ids of a text."""
    counting: Any
    """The same object, except for a BPE that skips what it does not know: a copy that has a token for that."""
    renumbered: bool
    """Whether the ids of `counting` are not those of the tokenizer, so that they say nothing but what is lost."""
    unknown_id: int | None
    """The id that `counting` gives for what the model does not know; None if it knows everything."""


class JSONTokenizer(DefinedTokenizer):
    """`end_of_text` names the end-of-text token; with None it is searched for among the usual names.

    `special` names tokens that are special whatever the definition says. Raises InvalidInputError where the library
    cannot read the definition, or where no end-of-text token is found.
    """

    def __init__(
        self,
        definition: dict[str, Any],
        *,
        name: str,
        kind: str,
        end_of_text: str | None,
        special: Set[str] = frozenset(),
    ) -> None:
        self.name = name
        self.kind = kind
        self.library = library_version()
        self._expects_unknown = False
        self._definition = _without_limits(definition)
        self._decoder = _build(self._definition, name)
        vocabulary: dict[str, int] = self._decoder.get_vocab(with_added_tokens=True)
        self.vocabulary_size = max(vocabulary.values(), default=-1) + 1
        self.end_of_text = _find_end_of_text(name, vocabulary, end_of_text)
        self.end_of_text_id = vocabulary[self.end_of_text]
        if self.end_of_text in byte_pieces(self._definition["model"]):
            raise InvalidInputError(
                f"tokenizer {name}: end-of-text token '{self.end_of_text}' stands for a byte, so a text can hold it; "
                "name another with --end-of-text"
            )
        if special_in_vocabulary := special & vocabulary.keys() - {self.end_of_text}:
            defined = special_tokens(self._definition, self.end_of_text)
            all_special = special_tokens(self._definition, self.end_of_text, special_in_vocabulary)
            self.configured_special = all_special - defined
        identity: list[Any] = [self._definition, self.end_of_text_id]
        if self.configured_special:
            identity.append(sorted(self.configured_special))
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.hash = hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()

    def encode_and_count(self, texts: Sequence[str]) -> tuple[list[NDArray[np.uint32]], list[int]]:
        ids, counting, renumbered, unknown_id = self._encoder
        with_offsets = self._expects_unknown
        encode = counting.encode_batch if with_offsets else counting.encode_batch_fast
        encodings = encode(texts, add_special_tokens=False)
        encoded = list(map(_ids_of, encodings))
        lost = [0] * len(texts)
        if unknown_id is None:
            return encoded, lost
        unknown = {index: np.flatnonzero(tokens == unknown_id) for index, tokens in enumerate(encoded)}
        unknown = {index: places for index, places in unknown.items() if len(places)}
        for index, places in unknown.items():
            text = texts[index]
            encoding = encodings[index] if with_offsets else counting.encode(text, add_special_tokens=False)
            lost[index] = _characters_covered(encoding, places.tolist())
        if counting is not ids:
            others = list(range(len(texts)) if renumbered else unknown)
            again = ids.encode_batch_fast([texts[index] for index in others], add_special_tokens=False)
            for index, encoding in zip(others, again, strict=True):
                encoded[index] = _ids_of(encoding)
        self._expects_unknown = 2 * len(unknown) > len(texts)
        return encoded, lost

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._decoder.decode([int(token) for token in ids], skip_special_tokens=False))

    def definition(self) -> dict[str, Any]:
        return self._definition

    @cached_property
    def reserved_ids(self) -> frozenset[int]:
        reserved = self._special - {unknown_token(self._definition["model"])} | {self.end_of_text}
        found = (self._decoder.token_to_id(token) for token in reserved)
        return frozenset(token for token in found if token is not None)

    @cached_property
    def _special(self) -> frozenset[str]:
        return special_tokens(self._definition, self.end_of_text, self.configured_special)

    @cached_property
    def _encoder(self) -> _Encoder:
        if is_lossless(self._definition) and not needs_other_names(self._definition, self._special):
            return _Encoder(self._decoder, self._decoder, False, None)
        prefix = new_prefix()
        working = without_special_names(self._definition, self._special, prefix)
        ids = _build(working, self.name)
        if is_lossless(working):
            return _Encoder(ids, ids, False, None)
        model = working["model"]
        unknown = unknown_token(model)
        if unknown is not None:
            return _Encoder(ids, ids, False, ids.token_to_id(unknown))
        if "merges" not in model:  # the other models refuse a text with something unknown
            return _Encoder(ids, ids, False, None)
        vocabulary: dict[str, int] = ids.get_vocab(with_added_tokens=True)
        # The library numbers added tokens after the entries of the model, so in a copy with one more they may move.
        unknown_id = max(vocabulary.values()) + len(working.get("added_tokens") or ()) + 1
        counting = _build(with_unknown_token(working, prefix, unknown_id), self.name)
        renumbered = counting.get_vocab(with_added_tokens=True) != vocabulary | {prefix: unknown_id}
        return _Encoder(ids, counting, renumbered, unknown_id)


def _without_limits(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition without truncation and padding, and without dropout, which skips merges at random."""
    definition = {**definition, "truncation": None, "padding": None}
    if isinstance(definition["model"], dict) and definition["model"].get("dropout"):
        definition["model"] = {**definition["model"], "dropout": None}
    return definition


def _build(definition: Mapping[str, Any], name: str) -> Any:
    """The library's tokenizer, which does not look for special tokens in a text."""
    from tokenizers import Tokenizer as LibraryTokenizer

    try:
        library = LibraryTokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the library raises a bare Exception
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"tokenizer {name}: is not a valid tokenizer.json ({reason}); give another one"
        ) from error
    library.encode_special_tokens = True
    return library


def _ids_of(encoding: Any) -> NDArray[np.uint32]:
    return np.fromiter(encoding.ids, np.uint32, len(encoding))


def _characters_covered(encoding: Any, places: Sequence[int]) -> int:
    """Characters of the text under some of its tokens, each counted once: the bytes of a character share a range."""
    count = end_before = 0
    for place in places:
        start, end = encoding.token_to_chars(place)
        count += max(0, end - max(start, end_before))
        end_before = max(end_before, end)
    return count


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
