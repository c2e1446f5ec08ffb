"""The manifest of a dataset: what its tokens are, how many, and the hash of every file beside the shards.

`manifest.json` is small whatever the size of the dataset: what grows with the number of shards (their counts and
hashes, and the hashes of their document files) stands in `shards.parquet`, whose hash stands here, and
`manifest.sha256` (in the format of `sha256sum`) closes the chain. The fingerprint names the data itself: equal
tokens cut into equal shards have the same one wherever and however they were made.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from tst_data.configuration import Frozen, validation_message
from tst_data.durable_files import write_atomically
from tst_data.errors import DamagedDataError, InvalidInputError, NotFoundError

__all__ = [
    "DOCUMENTS_FOLDER",
    "FORMAT_VERSION",
    "INDEX_NAME",
    "JOURNAL_NAME",
    "MANIFEST_HASH_NAME",
    "MANIFEST_NAME",
    "SHARD_TABLE_NAME",
    "Manifest",
    "TokenDtype",
    "TokenizerDescription",
    "dataset_fingerprint",
    "document_file_name",
    "dtype_for",
    "load_manifest",
    "shard_file_name",
    "write_manifest",
]

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MANIFEST_HASH_NAME = "manifest.sha256"
SHARD_TABLE_NAME = "shards.parquet"
INDEX_NAME = "index.json"
DOCUMENTS_FOLDER = "documents"
JOURNAL_NAME = "conversion.journal"
"""Stands in a folder for as long as its dataset is being written."""

TokenDtype = Literal["uint16", "uint32"]
"""Types of stored token ids."""


class TokenizerDescription(Frozen):
    """What made the tokens. Only `hash` is part of the dataset's identity."""

    name: str
    kind: str
    hash: str


class Manifest(Frozen):
    """The contents of `manifest.json`."""

    format_version: int
    fingerprint: str
    tokenizer: TokenizerDescription
    end_of_text_id: int = Field(ge=0)
    vocabulary_size: int = Field(gt=0)
    dtype: TokenDtype
    sample_tokens: int = Field(gt=0)
    num_tokens: int = Field(ge=0)
    num_documents: int = Field(ge=0)
    num_shards: int = Field(ge=0)
    files: dict[str, str]
    """xxh3_128 of every file that is neither a shard nor in `documents/`, by path relative to the folder."""
    made: dict[str, Any] = Field(default_factory=dict)
    """How the dataset was made (tool, sources, options). Describes; never part of the identity."""


def shard_file_name(shard: int) -> str:
    """File name of a shard, as mosaicml-streaming names them."""
    return f"shard.{shard:05}.mds"


def document_file_name(shard: int) -> str:
    """Path in the dataset folder of the documents that begin in a shard."""
    return f"{DOCUMENTS_FOLDER}/shard.{shard:05}.parquet"


def dtype_for(vocabulary_size: int) -> TokenDtype:
    """The narrower of the two token types that holds every id of the vocabulary."""
    if not 0 < vocabulary_size <= 1 << 32:
        raise InvalidInputError(
            f"a vocabulary of {vocabulary_size} tokens cannot be stored; expected 1 to {1 << 32} tokens"
        )
    return "uint16" if vocabulary_size <= 1 << 16 else "uint32"


def dataset_fingerprint(
    *,
    tokenizer_hash: str,
    end_of_text_id: int,
    vocabulary_size: int,
    dtype: str,
    shard_tokens: np.ndarray,
    shard_hashes: np.ndarray,
) -> str:
    """The identity of a dataset, 64 hex digits.

    `shard_tokens` (num_shards,) and `shard_hashes` (num_shards, 32) bytes of sha256 enter as one sha256 over 40
    bytes a shard (count as little-endian uint64, then hash): 2 ms for 100,000 shards, so that every opening can
    recompute it, where their JSON would take 100.
    """
    rows = np.empty((len(shard_tokens), 40), dtype=np.uint8)
    rows[:, :8] = np.ascontiguousarray(shard_tokens, dtype="<u8").view(np.uint8).reshape(-1, 8)
    rows[:, 8:] = shard_hashes
    identity = {
        "dtype": dtype,
        "end_of_text_id": end_of_text_id,
        "shards": hashlib.sha256(rows.data).hexdigest(),
        "tokenizer": tokenizer_hash,
        "vocabulary_size": vocabulary_size,
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, then its hash: a folder with the hash is finished."""
    text = json.dumps(manifest.model_dump(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    data = text.encode()
    write_atomically(folder / MANIFEST_NAME, data)
    line = f"{hashlib.sha256(data).hexdigest()}  {MANIFEST_NAME}\n"
    write_atomically(folder / MANIFEST_HASH_NAME, line.encode())


def load_manifest(folder: Path) -> Manifest:
    """Read and verify a dataset's manifest.

    Raises NotFoundError where there is no folder, InvalidInputError where it is no (finished) dataset of this
    format, DamagedDataError where the manifest is not the one that was written.
    """
    if not folder.is_dir():
        raise NotFoundError(f"dataset {folder}: there is no such folder; check the path")
    if (folder / JOURNAL_NAME).exists():
        raise InvalidInputError(
            f"dataset {folder}: its conversion is not finished; give the same convert command again to go on"
        )
    data = _read(folder, MANIFEST_NAME)
    recorded = _read(folder, MANIFEST_HASH_NAME).decode("ascii", "replace").split()
    actual = hashlib.sha256(data).hexdigest()
    if not recorded or recorded[0] != actual:
        raise DamagedDataError(
            f"dataset {folder}: {MANIFEST_NAME} was changed (sha256 {actual[:12]}…, {MANIFEST_HASH_NAME} says "
            f"{recorded[0][:12] if recorded else 'nothing'}…); restore both from a copy"
        )
    return _parse(folder, data)


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise InvalidInputError(
            f"dataset {folder}: no {name}, so this is no dataset; make one with `tst-data convert`"
        ) from None


def _parse(folder: Path, data: bytes) -> Manifest:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise InvalidInputError(f"dataset {folder}: {MANIFEST_NAME} is not JSON ({error})") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise InvalidInputError(
            f"dataset {folder}: format version {version!r}, this program reads {FORMAT_VERSION}; "
            "use the version of tst-data that wrote it, or convert again"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise InvalidInputError(f"dataset {folder}: {MANIFEST_NAME}: {validation_message(error)}") from None
