"""Which tokenizer a string names, and the one that a dataset folder holds.

There are four ways to name one: a `tokenizer.json`, a folder or Hub name of a Hugging Face tokenizer, `bytes`, and
`train:4096`, which is trained on the documents of the conversion (`tst_data/tokenizer/training.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tst_data.errors import InvalidInputError, NotFoundError, UnavailableError
from tst_data.stores.hub import hub_is_reachable
from tst_data.tokenizer.base import CONFIG_NAME, TOKENIZER_NAME, Tokenizer
from tst_data.tokenizer.byte_tokenizer import ByteTokenizer
from tst_data.tokenizer.json_tokenizer import JSONTokenizer

__all__ = ["load_saved_tokenizer", "load_tokenizer", "split_training_size"]

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
    """The tokenizer that `--tokenizer` names: a tokenizer.json, a folder, a Hub name, or `bytes`.

    `end_of_text` names the end-of-text token. Without it, the tokenizer's configuration names it, or it is found
    among the usual names. Raises NotFoundError, InvalidInputError or UnavailableError.
    """
    if specification == "bytes":
        if end_of_text is not None:
            raise InvalidInputError("tokenizer bytes: its end-of-text token is fixed; leave --end-of-text out")
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
        raise InvalidInputError(
            f"tokenizer {specification}: is not a tokenizer.json (it has no 'model'); give another file"
        )
    if end_of_text is None and (folder / CONFIG_NAME).is_file():
        end_of_text = _end_of_text_of_config(_read_json(folder / CONFIG_NAME))
    return JSONTokenizer(definition, name=specification, kind="huggingface", end_of_text=end_of_text)


def load_saved_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote into a dataset folder. Raises NotFoundError where there is none."""
    folder = Path(folder)
    if not (folder / TOKENIZER_NAME).is_file() or not (folder / CONFIG_NAME).is_file():
        raise NotFoundError(
            f"{folder}: holds no tokenizer ({TOKENIZER_NAME} and {CONFIG_NAME}); give a dataset that "
            "`tst-data convert` made"
        )
    config = _read_json(folder / CONFIG_NAME)
    about = config.get("tst_data", {}) if isinstance(config, dict) else {}
    if about.get("kind") == ByteTokenizer.kind:
        return ByteTokenizer()
    name, kind = str(about.get("name", folder.name)), str(about.get("kind", "huggingface"))
    definition = _read_json(folder / TOKENIZER_NAME)
    return JSONTokenizer(definition, name=name, kind=kind, end_of_text=_end_of_text_of_config(config))


def _end_of_text_of_config(config: Any) -> str | None:
    token = config.get("eos_token") if isinstance(config, dict) else None
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _convert_with_transformers(folder: str) -> Any:
    """The definition of a tokenizer that was saved without a tokenizer.json (SentencePiece, for example)."""
    try:
        from transformers import AutoTokenizer

        load: Any = AutoTokenizer.from_pretrained
        return json.loads(load(folder, use_fast=True).backend_tokenizer.to_str())
    except Exception as error:  # each of the many loaders of transformers raises its own kind of error
        raise InvalidInputError(
            f"tokenizer {folder}: the folder holds no {TOKENIZER_NAME}, and transformers cannot make one from it; "
            "give a folder of a fast tokenizer"
        ) from error


def _fetch_from_hub(name: str) -> Path:
    """The folder in the Hub's local cache that holds the tokenizer's files, fetched first if the Hub is reachable."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        cached_only = not hub_is_reachable()
        file = huggingface_hub.hf_hub_download(name, TOKENIZER_NAME, local_files_only=cached_only)
        try:
            huggingface_hub.hf_hub_download(name, CONFIG_NAME, local_files_only=cached_only)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) and not cached_only:
                raise
    except Exception as error:  # wrong names, missing repositories, network and proxy errors
        raise UnavailableError(
            f"tokenizer {name}: no such file or folder, and it cannot be fetched from the Hugging Face Hub "
            f"({type(error).__name__}); give a tokenizer.json, a folder, bytes or train:SIZE"
        ) from error
    return Path(file).parent


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"tokenizer {path}: is not JSON ({error}); give another file") from error
    except OSError as error:
        raise InvalidInputError(f"tokenizer {path}: cannot be read ({error.strerror}); make it readable") from error
