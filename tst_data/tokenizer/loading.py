"""Tokenizers: text to token ids and back, the same ids whoever asks and however they were made.

Four ways to name one: a `tokenizer.json`, a folder or Hub name of a Hugging Face tokenizer, `bytes`, and
`train:4096` (see `tokenizer_training`). All but `bytes` run on the `tokenizers` library, without its truncation,
padding or special tokens: text that happens to spell `<|endoftext|>` stays text, and no id but those of the text
comes out. A dataset folder keeps its tokenizer as `tokenizer.json` and `tokenizer_config.json`, so it can be given
to `AutoTokenizer.from_pretrained` as it is.

`hash` is the sha256 of the tokenizer's JSON in canonical form and of the end-of-text id. It is taken from the JSON
as it was found, not as the installed library would write it: library versions differ in that.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tst_data.errors import InvalidInputError, NotFoundError, UnavailableError
from tst_data.stores.hub import hub_answers

__all__ = [
    "TOKENIZER_FILES",
    "ByteTokenizer",
    "JSONTokenizer",
    "Tokenizer",
    "load_saved_tokenizer",
    "load_tokenizer",
    "split_training_size",
]

TOKENIZER_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"
TOKENIZER_FILES = (TOKENIZER_NAME, CONFIG_NAME)
"""What `Tokenizer.save` writes."""

BYTE_END_OF_TEXT = 256
_TRAIN_PREFIX = "train:"
_WELL_KNOWN_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<end_of_text>")


class Tokenizer(ABC):
    """Text to ids. `name` and `kind` describe; `hash` is part of a dataset's identity."""

    name: str
    kind: str
    hash: str
    vocabulary_size: int
    """Highest id + 1, added tokens included."""
    end_of_text_id: int

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, uint32, nothing added."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens shown; bytes that are no UTF-8 become U+FFFD."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write TOKENIZER_FILES into a folder."""


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes are their own ids, 256 is end-of-text."""

    name = "bytes"
    kind = "bytes"
    hash = hashlib.sha256(b'{"end_of_text_id":256,"kind":"bytes"}').hexdigest()
    vocabulary_size = BYTE_END_OF_TEXT + 1
    end_of_text_id = BYTE_END_OF_TEXT

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        parts: list[bytes] = []
        for token in ids:
            parts.append(b"<|endoftext|>" if token == BYTE_END_OF_TEXT else bytes((int(token),)))
        return b"".join(parts).decode(errors="replace")

    def save(self, folder: Path) -> None:
        _write_json(folder / TOKENIZER_NAME, _byte_definition())
        _write_json(folder / CONFIG_NAME, _config("<|endoftext|>", self))


class JSONTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library, from the content of its `tokenizer.json`.

    Raises InvalidInputError when the library cannot read the definition, or without an end-of-text token.
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
            raise InvalidInputError(f"tokenizer {name}: not a tokenizer.json ({reason}); give another one") from error
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        self.vocabulary_size = max(vocabulary.values(), default=-1) + 1
        self._end_of_text = _find_end_of_text(name, vocabulary, end_of_text)
        self.end_of_text_id = vocabulary[self._end_of_text]
        canonical = json.dumps(
            [self._definition, self.end_of_text_id], sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        self.hash = hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()
        self._make_special(self._end_of_text)

    def _make_special(self, token: str) -> None:
        """Special tokens are not looked for in text; an end-of-text token that is not marked as one would be."""
        from tokenizers import AddedToken

        self._library.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        self._library.encode_special_tokens = True

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [np.fromiter(encoding.ids, np.uint32, len(encoding)) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        return self._library.decode([int(token) for token in ids], skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        _write_json(folder / TOKENIZER_NAME, self._definition)
        _write_json(folder / CONFIG_NAME, _config(self._end_of_text, self))


def split_training_size(specification: str) -> int | None:
    """The vocabulary size of `train:SIZE`, None for any other tokenizer."""
    if not specification.startswith(_TRAIN_PREFIX):
        return None
    size = specification.removeprefix(_TRAIN_PREFIX)
    if not size.isascii() or not size.isdigit() or not 257 <= int(size) <= 1_000_000:
        raise InvalidInputError(
            f"tokenizer {specification}: expected train:SIZE with a size from 257 (256 bytes and end-of-text) to "
            "1000000, such as train:4096"
        )
    return int(size)


def load_tokenizer(specification: str, end_of_text: str | None = None) -> Tokenizer:
    """The tokenizer that `--tokenizer` names: a tokenizer.json, a folder, a Hub name, or `bytes`.

    `end_of_text` names the end-of-text token where the tokenizer's configuration does not, or overrides it.
    Raises NotFoundError, InvalidInputError or UnavailableError.
    """
    if specification == "bytes":
        if end_of_text is not None:
            raise InvalidInputError("tokenizer bytes: has its own end-of-text token; leave --end-of-text out")
        return ByteTokenizer()
    path = Path(specification)
    if path.is_file():
        folder, definition = path.parent, _read_json(path)
    elif path.is_dir():
        folder = path
        file = path / TOKENIZER_NAME
        definition = _read_json(file) if file.is_file() else _convert_with_transformers(specification)
    elif specification.endswith(".json") or specification.startswith(("/", ".", "~")) or not specification:
        raise NotFoundError(f"tokenizer {specification}: no such file or folder; check the path")
    else:
        folder = _fetch_from_hub(specification)
        definition = _read_json(folder / TOKENIZER_NAME)
    if not isinstance(definition, dict) or "model" not in definition:
        raise InvalidInputError(f"tokenizer {specification}: not a tokenizer.json (no 'model'); give another file")
    if end_of_text is None and (folder / CONFIG_NAME).is_file():
        end_of_text = _end_of_text_of_config(_read_json(folder / CONFIG_NAME))
    return JSONTokenizer(definition, name=specification, kind="huggingface", end_of_text=end_of_text)


def load_saved_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that `save` wrote into a dataset folder. Raises NotFoundError where there is none."""
    folder = Path(folder)
    if not (folder / TOKENIZER_NAME).is_file() or not (folder / CONFIG_NAME).is_file():
        raise NotFoundError(f"{folder}: holds no tokenizer ({TOKENIZER_NAME}); only `tst-data convert` puts one")
    config = _read_json(folder / CONFIG_NAME)
    about = config.get("tst_data", {}) if isinstance(config, dict) else {}
    if about.get("kind") == ByteTokenizer.kind:
        return ByteTokenizer()
    name, kind = str(about.get("name", folder.name)), str(about.get("kind", "huggingface"))
    definition = _read_json(folder / TOKENIZER_NAME)
    return JSONTokenizer(definition, name=name, kind=kind, end_of_text=_end_of_text_of_config(config))


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


def _end_of_text_of_config(config: Any) -> str | None:
    token = config.get("eos_token") if isinstance(config, dict) else None
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _convert_with_transformers(folder: str) -> dict[str, Any]:
    """The definition of a tokenizer saved without a tokenizer.json (SentencePiece and the like)."""
    try:
        from transformers import AutoTokenizer

        return json.loads(AutoTokenizer.from_pretrained(folder, use_fast=True).backend_tokenizer.to_str())
    except Exception as error:  # transformers raises whatever its many loaders do
        raise InvalidInputError(
            f"tokenizer {folder}: the folder holds no {TOKENIZER_NAME}, and transformers makes none of it; "
            "give a folder of a fast tokenizer"
        ) from error


def _fetch_from_hub(name: str) -> Path:
    """The folder in the Hub's local cache that holds the tokenizer's files, fetched where the Hub answers."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        cached_only = not hub_answers()
        file = huggingface_hub.hf_hub_download(name, TOKENIZER_NAME, local_files_only=cached_only)
        try:
            huggingface_hub.hf_hub_download(name, CONFIG_NAME, local_files_only=cached_only)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) and not cached_only:
                raise
    except Exception as error:  # bad names, missing repositories, network and proxy errors: all end here
        raise UnavailableError(
            f"tokenizer {name}: no such file or folder, and not to be had from the Hugging Face Hub "
            f"({type(error).__name__}); give a tokenizer.json, a folder, bytes or train:SIZE"
        ) from error
    return Path(file).parent


def _byte_definition() -> dict[str, Any]:
    """`bytes` as a tokenizer.json: a byte-level BPE without merges whose ids are the byte values."""
    characters = _byte_level_characters()
    end_of_text = {
        "id": BYTE_END_OF_TEXT,
        "content": "<|endoftext|>",
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
        "vocab": {character: value for value, character in enumerate(characters)},
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


def _byte_level_characters() -> list[str]:
    """The character that byte-level tokenizers write for each byte value.

    Printable Latin-1 characters stand for themselves, the other 68 byte values take U+0100 onwards in order (the
    table of GPT-2's tokenizer).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(256) if value not in printable]
    return [chr(value) if value in printable else chr(0x100 + others.index(value)) for value in range(256)]


def _config(end_of_text: str, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_of_text,
        "clean_up_tokenization_spaces": False,
        "tst_data": {"name": tokenizer.name, "kind": tokenizer.kind},
    }


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"tokenizer {path}: not JSON ({error}); give another file") from error
    except OSError as error:
        raise InvalidInputError(f"tokenizer {path}: cannot be read ({error.strerror})") from error


def _write_json(path: Path, content: Any) -> None:
    from tst_data.durable_files import write_atomically

    write_atomically(path, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode(errors="surrogatepass"))
