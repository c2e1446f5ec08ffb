"""What every tokenizer does: text to token ids and back, and its files in a dataset folder.

Two promises hold for every kind. No text gives the id of the end-of-text token or of another special token
(`reserved_ids`), however it spells them; and the characters that the tokenizer cannot represent are counted
(`encode_and_count`), so that no text gets shorter without anybody noticing it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_data.durable_files import write_atomically
from tst_data.tokenizer.configured_tokens import SPECIAL_KEY

__all__ = ["CONFIG_NAME", "MODEL_NAME", "TOKENIZER_NAME", "DefinedTokenizer", "Tokenizer", "json_file"]

TOKENIZER_NAME = "tokenizer.json"
MODEL_NAME = "tokenizer.model"
CONFIG_NAME = "tokenizer_config.json"


class Tokenizer(ABC):
    """Text to ids. `name`, `kind` and `library` only describe it; `hash` is part of a dataset's identity."""

    name: str
    """How the user named it: a path, a name on the Hub, `bytes` or `train:SIZE`."""
    kind: str
    """`bytes`, `huggingface`, `trained` or `sentencepiece`."""
    library: str | None
    """Name and version of the library that encodes, such as 'tokenizers 0.22.2'; None where none is needed."""
    hash: str
    """sha256 of the definition, the end-of-text id, and `configured_special` if there are any: 64 hex digits."""
    vocabulary_size: int
    """Highest id + 1, added tokens included."""
    end_of_text: str
    """The end-of-text token as `decode` writes it."""
    end_of_text_id: int
    configured_special: frozenset[str] = frozenset()
    """The tokens of the vocabulary that are special only because the files beside the definition say so."""

    @property
    @abstractmethod
    def reserved_ids(self) -> frozenset[int]:
        """The ids that no text may give: end-of-text and the other special tokens, but not the unknown token."""

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of each text, with nothing added."""
        return self.encode_and_count(texts)[0]

    @abstractmethod
    def encode_and_count(self, texts: Sequence[str]) -> tuple[list[NDArray[np.uint32]], list[int]]:
        """(the ids of each text, the number of its lost characters).

        A character is lost if it is in a piece of text that became the unknown token, or if no token stands for it.
        What the tokenizer's normalizer and pre-tokenizer change or remove is not lost: its definition says so.
        """

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens included; bytes that are not UTF-8 become U+FFFD."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The files that `load_saved_tokenizer` needs, by name. Each name begins with "tokenizer"."""

    def _config(self, **keys: Any) -> bytes:
        """A `tokenizer_config.json` with these keys, and with `configured_special` for transformers and for us."""
        config = keys | {"tst_data": {"name": self.name, "kind": self.kind}}
        if self.configured_special:
            config[SPECIAL_KEY] = sorted(self.configured_special)
        return json_file(config)

    def save(self, folder: Path) -> None:
        """Write `files` into a folder."""
        for name, content in self.files().items():
            write_atomically(folder / name, content)


class DefinedTokenizer(Tokenizer):
    """A tokenizer whose definition is a `tokenizer.json`: `AutoTokenizer.from_pretrained(folder)` loads it."""

    @abstractmethod
    def definition(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""

    def files(self) -> dict[str, bytes]:
        config = self._config(
            tokenizer_class="PreTrainedTokenizerFast", eos_token=self.end_of_text, clean_up_tokenization_spaces=False
        )
        return {TOKENIZER_NAME: json_file(self.definition()), CONFIG_NAME: config}


def json_file(content: Any) -> bytes:
    """The bytes of a JSON file for people and libraries."""
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode(errors="surrogatepass")
