"""What every tokenizer does: text to token ids and back, and its files in a dataset folder.

A dataset folder keeps its tokenizer as `tokenizer.json` and `tokenizer_config.json`, so the folder can be given to
`AutoTokenizer.from_pretrained` as it is.
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

__all__ = ["CONFIG_NAME", "TOKENIZER_FILES", "TOKENIZER_NAME", "Tokenizer"]

TOKENIZER_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"
TOKENIZER_FILES = (TOKENIZER_NAME, CONFIG_NAME)
"""What `Tokenizer.save` writes."""


class Tokenizer(ABC):
    """Text to ids. `name` and `kind` only describe it; `hash` is part of a dataset's identity."""

    name: str
    """How the user named it: a path, a name on the Hub, `bytes` or `train:SIZE`."""
    kind: str
    """`bytes`, `huggingface` or `trained`."""
    hash: str
    """sha256 of the definition and of the end-of-text id: 64 hex digits."""
    vocabulary_size: int
    """Highest id + 1, added tokens included."""
    end_of_text: str
    """The end-of-text token as `decode` writes it."""
    end_of_text_id: int

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of each text, with nothing added."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens included; bytes that are not UTF-8 become U+FFFD."""

    @abstractmethod
    def definition(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""

    def save(self, folder: Path) -> None:
        """Write TOKENIZER_FILES into a folder."""
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.end_of_text,
            "clean_up_tokenization_spaces": False,
            "tst_data": {"name": self.name, "kind": self.kind},
        }
        for name, content in ((TOKENIZER_NAME, self.definition()), (CONFIG_NAME, config)):
            text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
            write_atomically(folder / name, text.encode(errors="surrogatepass"))
