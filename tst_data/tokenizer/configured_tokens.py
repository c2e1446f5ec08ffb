"""The special tokens that the files beside a tokenizer name: `tokenizer_config.json` and `special_tokens_map.json`.

transformers reads them, and calls special what they name, also where the definition of the tokenizer does not mark it.
A forged `<|im_start|>` would be one to a chat model that is trained later, so no text may give these tokens either.
Nothing but the names is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["SPECIAL_KEY", "end_of_text_of", "special_tokens_of"]

SPECIAL_KEY = "additional_special_tokens"
"""Key of a list of special tokens without a role, in both files."""

_KEYS = (
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
    *(SPECIAL_KEY, "extra_special_tokens", "model_specific_special_tokens"),
)


def end_of_text_of(config: Any) -> str | None:
    """The end-of-text token that a `tokenizer_config.json` names."""
    return next(_names(config.get("eos_token")), None) if isinstance(config, dict) else None


def special_tokens_of(config: Any, special_tokens_map: Any = None) -> frozenset[str]:
    """All special tokens that the two files name, with or without a place in the vocabulary."""
    found: set[str] = set()
    if isinstance(config, dict):
        for key in _KEYS:
            found.update(_names(config.get(key)))
        added = config.get("added_tokens_decoder")
        if isinstance(added, dict):
            found.update(*(_names(token) for token in added.values() if _is_special(token)))
    if isinstance(special_tokens_map, dict):  # models with roles of their own, such as image_token, have more keys
        found.update(*(_names(value) for value in special_tokens_map.values()))
    return frozenset(found)


def _names(value: Any) -> Iterator[str]:
    """The names in a string, in `{"content": NAME}`, or in a list or mapping of these."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in (value["content"],) if "content" in value else value.values():
            yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


def _is_special(token: Any) -> bool:
    return isinstance(token, dict) and bool(token.get("special"))
