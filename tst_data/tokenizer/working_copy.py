"""The copy of a `tokenizer.json` that encodes: no text can give a special token, and nothing in it is random.

The library `tokenizers` does not find special tokens in a text if it is told so, but the text then goes to the model,
and a model whose vocabulary holds `</s>` gives its id for a text that spells `</s>`: a Unigram (the shape of T5 and
XLM-R), a WordLevel or WordPiece, and a BPE with `ignore_merges` or with merges that make it. So in the copy the special
tokens have other names, which begin with a prefix that is drawn at random when the copy is made. No text that was
written before can hold it. All ids stay as they are, and so does the encoding of every text that spells no special
token. The definition that is saved and hashed keeps the real names.

These are functions from JSON to JSON; the library is in `json_tokenizer`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Set
from typing import Any

from tst_data.tokenizer.byte_tokenizer import byte_level_characters

__all__ = [
    "byte_pieces",
    "is_lossless",
    "needs_other_names",
    "new_prefix",
    "special_tokens",
    "unknown_token",
    "with_unknown_token",
    "without_special_names",
]

_USUAL_SPECIAL_TOKENS = {
    *("<s>", "</s>", "<unk>", "<pad>", "<mask>", "<cls>", "<sep>", "<bos>", "<eos>"),
    *("[UNK]", "[PAD]", "[MASK]", "[CLS]", "[SEP]", "[BOS]", "[EOS]"),
    *("<|endoftext|>", "<|startoftext|>", "<|end_of_text|>", "<|begin_of_text|>"),
    *("<|unk|>", "<|pad|>", "<|bos|>", "<|eos|>"),
}
"""Special also where a definition does not say so, if they are entries that no merge makes."""

_BYTES_OF_UTF8 = [*range(0xC0), *range(0xC2, 0xF5)]
"""Byte values that UTF-8 uses; the others are in no text."""


def new_prefix() -> str:
    """A new beginning for the names of special tokens: a code point that is not a character, and 128 random bits."""
    return f"\U0010fffe{secrets.token_hex(16)}"


def special_tokens(
    definition: Mapping[str, Any], end_of_text: str, configured: Set[str] = frozenset()
) -> frozenset[str]:
    """The tokens that a text may not give: it spells them, and gets the tokens of their characters.

    They are end-of-text, the `configured` ones, the added tokens marked as special, those that the post-processor
    inserts, the unknown token, and the usual names of special tokens if they are in the vocabulary and neither made by
    a merge nor declared as an ordinary added token. An ordinary added token is meant to be found in the text. Byte
    pieces are never special, marked or not: texts need them.
    """
    model, added = definition["model"], definition.get("added_tokens") or []
    special = {end_of_text, *configured, *(token["content"] for token in added if token.get("special"))}
    special.update(_inserted(definition.get("post_processor") or {}))
    unknown = unknown_token(model)
    if unknown is not None:
        special.add(unknown)
    usual = _USUAL_SPECIAL_TOKENS.intersection(_entries(model)) - special
    usual -= {token["content"] for token in added}
    if usual:
        usual -= {_product(pair, model) for pair in _merges(model)}
    return frozenset((special | usual) - byte_pieces(model))


def unknown_token(model: Mapping[str, Any]) -> str | None:
    """The entry of a model that stands for what is not in its vocabulary, None where there is none."""
    if _is_unigram(model):
        number, vocabulary = model.get("unk_id"), model["vocab"]
        return str(vocabulary[number][0]) if isinstance(number, int) and 0 <= number < len(vocabulary) else None
    token = model.get("unk_token")
    return token if isinstance(token, str) and token in model["vocab"] else None


def byte_pieces(model: Mapping[str, Any]) -> frozenset[str]:
    """The names by which a model with byte fallback looks up bytes, such as `<0x0A>`; none for any other model."""
    if model.get("byte_fallback") and (_is_unigram(model) or "merges" in model):
        return frozenset(f"<0x{value:02X}>" for value in range(256))
    return frozenset()


def needs_other_names(definition: Mapping[str, Any], special: Set[str]) -> bool:
    """Whether a text could give a special token if they kept their names.

    It could not where the model is a BPE that reaches a longer entry by merges alone, and no merge makes a special
    token. GPT-2's tokenizer and trained ones are of this kind, and need no copy, which takes 0.3 s to make.
    """
    model = definition["model"]
    if "merges" not in model or model.get("ignore_merges"):
        return True
    decorated = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    found_in_text = {token["content"] for token in definition.get("added_tokens") or [] if not token.get("special")}
    return bool(
        decorated
        or any(len(token) == 1 for token in special)
        or special & found_in_text
        or any(_product(pair, model) in special for pair in _merges(model))
    )


def without_special_names(definition: Mapping[str, Any], special: Set[str], prefix: str) -> dict[str, Any]:
    """The definition with another name for each special token: the prefix, then the old name.

    Merges that make a special token, or join one with something, are left out: only a text that spells it used them.
    The post-processor is left out too, because nothing is added to the ids of a text.
    """

    def renamed(token: str) -> str:
        return prefix + token if token in special else token

    model = dict(definition["model"])
    if _is_unigram(model):
        model["vocab"] = [[renamed(token), score] for token, score in model["vocab"]]
    else:
        model["vocab"] = {renamed(token): number for token, number in model["vocab"].items()}
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = renamed(model["unk_token"])
    if "merges" in model:
        model["merges"] = [
            pair for pair in _merges(model) if special.isdisjoint(pair) and _product(pair, model) not in special
        ]
    added = [
        {**token, "content": renamed(token["content"]), "special": True} if token["content"] in special else token
        for token in definition.get("added_tokens") or []
    ]
    return {**definition, "model": model, "added_tokens": added, "post_processor": None}


def is_lossless(working: Mapping[str, Any]) -> bool:
    """Whether the model has a token for every text: it knows each byte, as a character or as `<0x0A>`."""
    model = working["model"]
    entries = set(_entries(model))
    if byte_pieces(model):
        return entries.issuperset(f"<0x{value:02X}>" for value in _BYTES_OF_UTF8)
    decorated = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    if "merges" not in model or decorated or not _ends_with_bytes(working):
        return False
    characters = byte_level_characters()
    return entries.issuperset(characters[value] for value in _BYTES_OF_UTF8)


def with_unknown_token(working: Mapping[str, Any], name: str, number: int) -> dict[str, Any]:
    """A copy of a BPE without an unknown token, which shows the characters that the BPE skips by an entry more."""
    model = working["model"]
    entries = {**model["vocab"], name: number}
    return {**working, "model": {**model, "vocab": entries, "unk_token": name, "fuse_unk": False}}


def _is_unigram(model: Mapping[str, Any]) -> bool:
    return isinstance(model["vocab"], list)


def _entries(model: Mapping[str, Any]) -> Iterator[str]:
    return (token for token, _ in model["vocab"]) if _is_unigram(model) else iter(model["vocab"])


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs that a BPE joins. Older files write a pair as one string with a space between."""
    pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model.get("merges") or ())
    return [(first, second) for first, second in pairs]


def _product(pair: tuple[str, str], model: Mapping[str, Any]) -> str:
    return pair[0] + pair[1].removeprefix(model.get("continuing_subword_prefix") or "")


def _inserted(post_processor: Mapping[str, Any]) -> Iterator[str]:
    """The tokens that a post-processor adds to a text."""
    yield from post_processor.get("special_tokens") or {}  # TemplateProcessing
    for key in ("cls", "sep"):  # BertProcessing, RobertaProcessing
        if post_processor.get(key):
            yield post_processor[key][0]
    for part in post_processor.get("processors") or ():  # Sequence
        yield from _inserted(part)


def _ends_with_bytes(working: Mapping[str, Any]) -> bool:
    """Whether the model is given nothing but the characters that stand for bytes."""
    pre_tokenizer, normalizer = working.get("pre_tokenizer"), working.get("normalizer")
    if pre_tokenizer is not None:
        return _last(pre_tokenizer, "pretokenizers").get("type") == "ByteLevel"
    return normalizer is not None and _last(normalizer, "normalizers").get("type") == "ByteLevel"


def _last(step: Mapping[str, Any], parts: str) -> Mapping[str, Any]:
    """The last step of a normalizer or pre-tokenizer that may be a sequence of them."""
    while step.get("type") == "Sequence" and step.get(parts):
        step = step[parts][-1]
    return step
