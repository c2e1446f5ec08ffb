"""The manifest: what a dataset's identity is made of, and what is not a dataset.

python -m pytest tests/data/test_manifest.py
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tst_data.dataset.journal import Journal
from tst_data.dataset.manifest import Manifest, dataset_fingerprint, dtype_for, load_manifest, write_manifest
from tst_data.dataset.reader import Dataset, open_dataset
from tst_data.errors import DamagedDataError, InvalidInputError, NotFoundError, TSTError


@pytest.fixture
def folder(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset.path, tmp_path / "dataset"))


def fingerprint(**changes: Any) -> str:
    identity: dict[str, Any] = {
        "tokenizer_hash": "ab",
        "end_of_text_id": 9,
        "vocabulary_size": 10,
        "dtype": "uint16",
        "shard_tokens": np.array([64, 7]),
        "shard_hashes": np.arange(64, dtype=np.uint8).reshape(2, 32),
    }
    return dataset_fingerprint(**identity | changes)


def test_fingerprint_is_pinned() -> None:
    assert fingerprint() == "d1baa3892ed41e97238f56564f09fc067cceffa0a68356cafe28bf6a50b9e31e"


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_hash": "ac"},
        {"end_of_text_id": 8},
        {"vocabulary_size": 11},
        {"dtype": "uint32"},
        {"shard_tokens": np.array([63, 8])},
        {"shard_hashes": np.arange(1, 65, dtype=np.uint8).reshape(2, 32)},
        {"shard_hashes": np.arange(64, dtype=np.uint8).reshape(2, 32)[::-1]},
    ],
)
def test_fingerprint_changes_with_everything_it_is_made_of(change: dict[str, Any]) -> None:
    assert fingerprint(**change) != fingerprint()


def test_what_only_describes_is_not_in_the_fingerprint(folder: Path) -> None:
    before = load_manifest(folder)
    tokenizer = before.tokenizer.model_copy(update={"name": "other"})
    write_manifest(folder, before.model_copy(update={"made": {"tool": "9.9"}, "tokenizer": tokenizer}))
    assert open_dataset(folder).fingerprint == before.fingerprint


@pytest.mark.parametrize(("vocabulary_size", "dtype"), [(1, "uint16"), (1 << 16, "uint16"), ((1 << 16) + 1, "uint32")])
def test_dtype_is_the_narrowest(vocabulary_size: int, dtype: str) -> None:
    assert dtype_for(vocabulary_size) == dtype


@pytest.mark.parametrize("vocabulary_size", [0, -1, (1 << 32) + 1])
def test_vocabulary_that_no_dtype_holds(vocabulary_size: int) -> None:
    with pytest.raises(InvalidInputError, match=f"vocabulary of {vocabulary_size} tokens"):
        dtype_for(vocabulary_size)


def test_manifest_survives_the_disk(tiny_dataset: Dataset) -> None:
    manifest = load_manifest(tiny_dataset.path)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    line = (tiny_dataset.path / "manifest.sha256").read_text().split()
    data = (tiny_dataset.path / "manifest.json").read_bytes()
    assert line == [hashlib.sha256(data).hexdigest(), "manifest.json"]


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest and make its hash right again."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


def edit_text(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"num_shards"', '"num_shards" '))


def change_byte(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


REFUSALS: dict[str, tuple[Callable[[Path], Any], type[TSTError], str]] = {
    "no folder": (shutil.rmtree, NotFoundError, "does not exist; give the path of a folder"),
    "no manifest": (
        lambda folder: (folder / "manifest.json").unlink(),
        InvalidInputError,
        "has no manifest.json, so it is not a dataset",
    ),
    "no manifest hash": (
        lambda folder: (folder / "manifest.sha256").unlink(),
        InvalidInputError,
        "has no manifest.sha256, so it is not a dataset",
    ),
    "manifest edited": (edit_text, DamagedDataError, "manifest.json was changed"),
    "manifest hash empty": (
        lambda folder: (folder / "manifest.sha256").write_text(""),
        DamagedDataError,
        "manifest.json was changed",
    ),
    "later format": (
        lambda folder: rewrite_manifest(folder, lambda content: content.update(format_version=2)),
        InvalidInputError,
        "format version 2, this program reads 1",
    ),
    "no format version": (
        lambda folder: rewrite_manifest(folder, lambda content: content.pop("format_version")),
        InvalidInputError,
        "format version null, this program reads 1",
    ),
    "key missing": (
        lambda folder: rewrite_manifest(folder, lambda content: content.pop("dtype")),
        InvalidInputError,
        "'dtype' is missing",
    ),
    "not finished": (
        lambda folder: Journal(folder, {}).close(),
        InvalidInputError,
        "conversion is not finished",
    ),
    "shard table damaged": (
        lambda folder: change_byte(folder / "shards.parquet", 100),
        DamagedDataError,
        "shards.parquet: has hash",
    ),
    "shard table missing": (
        lambda folder: (folder / "shards.parquet").unlink(),
        DamagedDataError,
        "shards.parquet: is missing; restore it from a copy",
    ),
    "other end of text": (
        lambda folder: rewrite_manifest(folder, lambda content: content.update(end_of_text_id=3)),
        DamagedDataError,
        "are not of one dataset",
    ),
    "other totals": (
        lambda folder: rewrite_manifest(folder, lambda content: content.update(num_tokens=3)),
        DamagedDataError,
        "are not of one dataset",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_opened_is_refused_in_one_line(folder: Path, case: str) -> None:
    break_it, error_type, message = REFUSALS[case]
    break_it(folder)
    with pytest.raises(error_type, match=message) as caught:
        open_dataset(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_object_stores_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="dataset 's3://bucket/data': only folders can be opened"):
        open_dataset("s3://bucket/data")
