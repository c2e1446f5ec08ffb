"""Which tokenizer a string names, and the one that a dataset folder holds.

There are four ways to name one: a file (`tokenizer.json`, or a model of sentencepiece), a folder or Hub name of a
Hugging Face tokenizer, `bytes`, and `train:4096`, which is trained on the documents of the conversion
(`tst_data/tokenizer/training.py`).

A folder without a `tokenizer.json` that has a `tokenizer.model` is read with sentencepiece itself. transformers makes a
`tokenizer.json` only of what it can convert exactly: a vocabulary with merges, or one of WordPiece.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tst_data.errors import InvalidInputError, NotFoundError, UnavailableError
from tst_data.given_files import read_small_file
from tst_data.stores.hub import hub_is_reachable
from tst_data.tokenizer.base import CONFIG_NAME, MODEL_NAME, TOKENIZER_NAME, Tokenizer
from tst_data.tokenizer.byte_tokenizer import ByteTokenizer
from tst_data.tokenizer.configured_tokens import end_of_text_of, special_tokens_of
from tst_data.tokenizer.json_tokenizer import JSONTokenizer
from tst_data.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

__all__ = ["load_saved_tokenizer", "load_tokenizer", "parse_saved_tokenizer", "split_training_size"]

SPECIAL_TOKENS_NAME = "special_tokens_map.json"
"""A file beside a given tokenizer. In a dataset everything is in CONFIG_NAME."""

MAX_FILE_BYTES = 1 << 30
"""The largest file of a tokenizer that is read; with a million entries and their merges it has about 0.1 GB."""

_TRAIN_PREFIX = "train:"


def split_training_size(specification: str) -> int | None:
    """The vocabulary size of `train:SIZE`, None for any other tokenizer."""
    if not specification.startswith(_TRAIN_PREFIX):
        return None
    size = specification.removeprefix(_TRAIN_PREFIX)
    if not size.isascii() or not size.isdigit() or not 257 <= int(size) <= 1_000_000:
        raise InvalidInputError(
            f"tokenizer {specification}: expected train:SIZE with a size from 257 (256 bytes and end-of-text) to "
            "1000000; give one, such as train:4096"
        )
    return int(size)


def load_tokenizer(specification: str, end_of_text: str | None = None) -> Tokenizer:
    """The tokenizer that `--tokenizer` names: a file, a folder, a Hub name, or `bytes`.

    `end_of_text` names the end-of-text token. Without it, the tokenizer's configuration or model names it, or it is
    found among the usual names. What the files beside the tokenizer call special is special, whatever `end_of_text`
    says. Raises NotFoundError, InvalidInputError or UnavailableError.
    """
    if specification == "bytes":
        if end_of_text is not None:
            raise InvalidInputError("tokenizer bytes: its end-of-text token is fixed; leave --end-of-text out")
        return ByteTokenizer()
    file = _find_file(specification)
    folder = file.parent if file is not None else Path(specification)
    config = _read_json_if_any(folder / CONFIG_NAME)
    special = special_tokens_of(config, _read_json_if_any(folder / SPECIAL_TOKENS_NAME))
    if file is not None and file.suffix == ".model":
        return SentencePieceTokenizer(_read(file), name=specification, end_of_text=end_of_text, special=special)
    definition = _read_json(file) if file is not None else _convert_with_transformers(specification)
    if not isinstance(definition, dict) or "model" not in definition:
        raise InvalidInputError(
            f"tokenizer {specification}: is not a tokenizer.json (it has no 'model'); give another file"
        )
    if end_of_text is None:
        end_of_text = end_of_text_of(config)
    return JSONTokenizer(definition, name=specification, kind="huggingface", end_of_text=end_of_text, special=special)


def load_saved_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote into a dataset folder. Raises NotFoundError where there is none."""
    names = [name for name in (TOKENIZER_NAME, MODEL_NAME, CONFIG_NAME) if (Path(folder) / name).is_file()]
    return parse_saved_tokenizer(folder, {name: _read(Path(folder) / name) for name in names})


def parse_saved_tokenizer(folder: str | Path, files: Mapping[str, bytes]) -> Tokenizer:
    """The same, of the bytes of these files of the folder, by name."""
    folder = Path(folder)
    name_of_file = next((name for name in (TOKENIZER_NAME, MODEL_NAME) if name in files), None)
    if name_of_file is None or CONFIG_NAME not in files:
        raise NotFoundError(
            f"{folder}: holds no tokenizer ({TOKENIZER_NAME} or {MODEL_NAME}, and {CONFIG_NAME}); give a dataset that "
            "`tst-data convert` made"
        )
    config = _parse_json(files[CONFIG_NAME], folder / CONFIG_NAME)
    about = config.get("tst_data", {}) if isinstance(config, dict) else {}
    if about.get("kind") == ByteTokenizer.kind:
        return ByteTokenizer()
    name, kind = str(about.get("name", folder.name)), str(about.get("kind", "huggingface"))
    end_of_text, special = end_of_text_of(config), special_tokens_of(config)
    data = files[name_of_file]
    if name_of_file == MODEL_NAME:
        return SentencePieceTokenizer(data, name=name, end_of_text=end_of_text, special=special)
    definition = _parse_json(data, folder / name_of_file)
    return JSONTokenizer(definition, name=name, kind=kind, end_of_text=end_of_text, special=special)


def _find_file(specification: str) -> Path | None:
    """The tokenizer.json or model file that is meant, None for a folder that only transformers can read."""
    path = Path(specification)
    if os.path.isdir(path):
        file = _file_in(path)
        models = sorted(entry.name for entry in path.iterdir() if entry.suffix in {".model", ".spm"})
        if file is None and models:
            raise InvalidInputError(
                f"tokenizer {specification}: the folder holds no {TOKENIZER_NAME}, and {models[0]} has ids of its own; "
                f"give {models[0]} itself to take those, or a folder with a {TOKENIZER_NAME}"
            )
        return file
    if os.path.exists(path):
        return path
    if specification.endswith((".json", ".model")) or specification.startswith(("/", ".", "~")) or not specification:
        raise NotFoundError(f"tokenizer {specification}: no such file or folder; check the path")
    return _fetch_from_hub(specification)


def _file_in(folder: Path) -> Path | None:
    return next((folder / name for name in (TOKENIZER_NAME, MODEL_NAME) if os.path.exists(folder / name)), None)


def _convert_with_transformers(folder: str) -> Any:
    """The definition of a tokenizer that was saved without a tokenizer.json (`vocab.txt`, for example)."""
    try:
        from transformers import AutoTokenizer

        load: Any = AutoTokenizer.from_pretrained
        return json.loads(load(folder, use_fast=True).backend_tokenizer.to_str())
    except Exception as error:  # each of the many loaders of transformers raises its own kind of error
        raise InvalidInputError(
            f"tokenizer {folder}: the folder holds no {TOKENIZER_NAME} or {MODEL_NAME}, and transformers cannot make "
            "one from it; give a folder of a fast tokenizer"
        ) from error


def _fetch_from_hub(name: str) -> Path:
    """The tokenizer's file in the Hub's local cache, fetched first if the Hub is reachable."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached_only = not hub_is_reachable()

    def fetched(file: str) -> Path | None:
        """None where the repository has no such file, or the cache where that has to be enough."""
        try:
            return Path(huggingface_hub.hf_hub_download(name, file, local_files_only=cached_only))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) and not cached_only:
                raise
            return None

    try:
        file = fetched(TOKENIZER_NAME) or fetched(MODEL_NAME)
        if file is None:
            raise FileNotFoundError(f"{name} has neither {TOKENIZER_NAME} nor {MODEL_NAME}")
        fetched(CONFIG_NAME)
        fetched(SPECIAL_TOKENS_NAME)
    except Exception as error:  # wrong names, missing repositories, network and proxy errors
        raise UnavailableError(
            f"tokenizer {name}: no such file or folder, and it cannot be fetched from the Hugging Face Hub "
            f"({type(error).__name__}); give a tokenizer.json, a folder, bytes or train:SIZE"
        ) from error
    return file


def _read_json_if_any(path: Path) -> Any:
    return _read_json(path) if os.path.exists(path) else None


def _read_json(path: Path) -> Any:
    return _parse_json(_read(path), path)


def _parse_json(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"tokenizer {path}: is not JSON ({error}); give another file") from error


def _read(path: Path) -> bytes:
    wanted = "a tokenizer.json or a model of sentencepiece"
    return read_small_file(path, place=f"tokenizer {path}", wanted=wanted, limit=MAX_FILE_BYTES)
