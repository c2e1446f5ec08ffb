"""The tokenizer `bytes`: every UTF-8 byte is its own id, and 256 is end-of-text.

It needs no library to encode or decode. What it saves is a `tokenizer.json` that gives the same ids in the
`tokenizers` library: a byte-level BPE without merges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_data.tokenizer.base import DefinedTokenizer

__all__ = ["ByteTokenizer", "byte_level_characters"]

_END_OF_TEXT_ID = 256


class ByteTokenizer(DefinedTokenizer):
    """257 ids: the 256 byte values and end-of-text."""

    name = "bytes"
    kind = "bytes"
    library = None
    hash = hashlib.sha256(b'{"end_of_text_id":256,"kind":"bytes"}').hexdigest()
    vocabulary_size = _END_OF_TEXT_ID + 1
    end_of_text = "<|endoftext|>"
    end_of_text_id = _END_OF_TEXT_ID

    @property
    def reserved_ids(self) -> frozenset[int]:
        return frozenset()  # nothing to check: a byte is below 256

    def encode_and_count(self, texts: Sequence[str]) -> tuple[list[NDArray[np.uint32]], list[int]]:
        encoded = [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32) for text in texts]
        return encoded, [0] * len(texts)

    def decode(self, ids: Iterable[int]) -> str:
        end_of_text = self.end_of_text.encode()
        parts = [end_of_text if token == _END_OF_TEXT_ID else bytes((int(token),)) for token in ids]
        return b"".join(parts).decode(errors="replace")

    def definition(self) -> dict[str, Any]:
        end_of_text = {
            "id": _END_OF_TEXT_ID,
            "content": self.end_of_text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        model: dict[str, Any] = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {character: value for value, character in enumerate(byte_level_characters())},
            "merges": [],
        }
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [end_of_text],
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": model,
        }


def byte_level_characters() -> list[str]:
    """The character that byte-level tokenizers write for each byte value (the table of GPT-2's tokenizer).

    A printable Latin-1 character is written as itself. The other 68 byte values are written as the characters from
    U+0100, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(256) if value not in printable]
    return [chr(value) if value in printable else chr(0x100 + others.index(value)) for value in range(256)]
