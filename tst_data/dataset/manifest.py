"""The manifest of a dataset: what its tokens are, how many, and the hash of every file besides the shards.

`manifest.json` is small for a dataset of any size. What grows with the number of shards (their counts and hashes, and
the hashes of their document files) is in `shards.parquet`; the hash of that file is in the manifest, and
`manifest.sha256` (in the format of `sha256sum`) holds the hash of the manifest. The fingerprint names the data itself:
equal tokens cut into equal shards have the same one, wherever and however they were made.

This is also the one place that says whether a dataset is finished: the journal of its writer is removed as the last
step, after the manifest is written.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from tst_data.configuration import Frozen, shown, validation_message
from tst_data.dataset.folder import DatasetFolder
from tst_data.durable_files import write_atomically
from tst_data.errors import DamagedDataError, InvalidInputError

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
    "is_finished",
    "is_unfinished",
    "load_manifest",
    "read_manifest",
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
"""Is in a folder for as long as its dataset is being written."""

TokenDtype = Literal["uint16", "uint32"]
"""Types of stored token ids."""


class TokenizerDescription(Frozen):
    """What made the tokens. Only `hash` is part of the dataset's identity."""

    name: str
    """What was given as `--tokenizer`, or what the caller of the writer says."""
    kind: str
    """How it is loaded again: bytes, JSON, a Hugging Face tokenizer, or ids without a tokenizer."""
    hash: str
    """sha256 of what determines the ids, in hex."""


class Manifest(Frozen):
    """The contents of `manifest.json`."""

    format_version: int
    """Version of the format of the folder."""
    fingerprint: str
    """Identity of the data, 64 hex digits."""
    tokenizer: TokenizerDescription
    """What made the tokens."""
    end_of_text_id: int = Field(ge=0)
    """Token that closes each document."""
    vocabulary_size: int = Field(gt=0)
    """Number of token ids; each id is below it."""
    dtype: TokenDtype
    """Type of the stored token ids."""
    sample_tokens: int = Field(gt=0)
    """Tokens of one MDS sample; the last sample of the dataset may be shorter."""
    num_tokens: int = Field(ge=0)
    """Tokens of the token stream, end-of-text tokens included."""
    num_documents: int = Field(ge=0)
    """Documents of the dataset."""
    num_shards: int = Field(ge=0)
    """Shard files of the dataset."""
    files: dict[str, str]
    """xxh3_128 of every file that is neither a shard nor in `documents/`, by path relative to the folder."""
    made: dict[str, Any] = Field(default_factory=dict)
    """How the dataset was made (tool, sources, options). It only describes; it is never part of the identity."""


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
            f"vocabulary_size: a vocabulary of {vocabulary_size} tokens cannot be stored, expected 1 to {1 << 32}; "
            "choose another tokenizer"
        )
    return "uint16" if vocabulary_size <= 1 << 16 else "uint32"


def dataset_fingerprint(
    *,
    tokenizer_hash: str,
    end_of_text_id: int,
    vocabulary_size: int,
    dtype: str,
    shard_tokens: NDArray[np.integer[Any]],
    shard_hashes: NDArray[np.uint8],
) -> str:
    """The identity of a dataset, 64 hex digits.

    `shard_tokens` (num_shards,) and `shard_hashes` (num_shards, 32) bytes of sha256 enter as one sha256 over 40
    bytes for each shard (count as little-endian uint64, then hash). That takes 2 ms for 100,000 shards, so each opening
    can compute it again; a hash of their JSON would take 100 ms.
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


def is_unfinished(folder: Path) -> bool:
    """Whether a dataset is being written into the folder, or was when its writer stopped."""
    return (folder / JOURNAL_NAME).exists()


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a dataset that was written to its end: the manifest's hash is its last file."""
    return (folder / MANIFEST_HASH_NAME).exists() and not is_unfinished(folder)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, then its hash."""
    text = json.dumps(manifest.model_dump(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    data = text.encode(errors="backslashreplace")  # a byte of a path that is not UTF-8 becomes JSON's escape \udce9
    write_atomically(folder / MANIFEST_NAME, data)
    line = f"{hashlib.sha256(data).hexdigest()}  {MANIFEST_NAME}\n"
    write_atomically(folder / MANIFEST_HASH_NAME, line.encode())


def load_manifest(folder: Path) -> Manifest:
    """`read_manifest` of the folder at a path."""
    opened = DatasetFolder(folder)
    try:
        return read_manifest(opened)
    finally:
        opened.close()


def read_manifest(folder: DatasetFolder) -> Manifest:
    """Read and verify a dataset's manifest. The bytes that are verified are those that are parsed.

    Raises NotFoundError where there is no such folder, InvalidInputError where it is not a finished dataset of this
    format, DamagedDataError where the manifest is not the one that was written, UnavailableError where it cannot be
    read now.
    """
    place = f"dataset '{folder.path}'"
    folder.check("dataset", "give the path of a folder that `tst-data convert` made")
    if folder.holds(JOURNAL_NAME):
        raise InvalidInputError(
            f"{place}: its conversion is not finished; give the same convert command again, and it resumes"
        )
    data = _read(folder, MANIFEST_NAME)
    recorded = _read(folder, MANIFEST_HASH_NAME).decode("ascii", "replace").split()
    actual = hashlib.sha256(data).hexdigest()
    if not recorded or recorded[0] != actual:
        found = f"{recorded[0][:12]}…" if recorded else "nothing"
        raise DamagedDataError(
            f"{place}: {MANIFEST_NAME} was changed (its sha256 is {actual[:12]}…, {MANIFEST_HASH_NAME} says {found}); "
            "restore both from a copy"
        )
    folder.recognize_by(MANIFEST_NAME, data)
    return _parse(place, data)


def _read(folder: DatasetFolder, name: str) -> bytes:
    if not folder.holds(name):
        raise InvalidInputError(
            f"dataset '{folder.path}': has no {name}, so it is not a dataset; make one with `tst-data convert`"
        )
    return folder.read(name)


def _parse(place: str, data: bytes) -> Manifest:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{place}: {MANIFEST_NAME} is not JSON ({error}); restore it from a copy") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise InvalidInputError(
            f"{place}: has format version {shown(version)}, this program reads {FORMAT_VERSION}; use the version of "
            "tst-data that wrote it, or convert again"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise InvalidInputError(
            f"{place}: {MANIFEST_NAME}: {validation_message(error)}; restore it from a copy"
        ) from None
