"""The parsers, what a valid input of each is, and what must hold for an input that it takes.

A target takes bytes. It returns where they were read, and raises one of our errors where they were refused; anything
else is a finding.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from tests.fuzz.mutations import EXTREMES, inputs
from tst_data.contract.batch import BatchHeader, WindowBatch, checksum
from tst_data.contract.wire import decode, encode, header_checksum
from tst_data.dataset.journal import Journal, JournalEntry
from tst_data.dataset.manifest import (
    JOURNAL_NAME,
    MANIFEST_HASH_NAME,
    MANIFEST_NAME,
    Manifest,
    TokenizerDescription,
    load_manifest,
    write_manifest,
)
from tst_data.dataset.shard_table import ShardRecord
from tst_data.run.run_file import load_run, parse_run

__all__ = ["TARGETS", "Target", "targets"]

TARGETS = ("run file", "wire", "manifest", "journal")


@dataclass(frozen=True)
class Target:
    """A parser and its inputs."""

    name: str
    inputs: st.SearchStrategy[bytes]
    parse: Callable[[bytes], None]


@contextlib.contextmanager
def targets() -> Iterator[dict[str, Target]]:
    """All targets by name, with a folder for those that read files."""
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # syncing files to a disk would take longest
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=in_memory) as name:
        folder = Path(name)
        made = [
            Target("run file", inputs(RUN_FILES), lambda data: _run_file(folder, data)),
            Target("wire", _bodies(), _wire),
            Target("manifest", inputs(_manifests(folder)), lambda data: _manifest(folder, data)),
            Target("journal", inputs([_journal_bytes(folder)]), lambda data: _journal(folder, data)),
        ]
        yield {target.name: target for target in made}


RUN_FILES = [
    b"""\
name: wiki-s4
datasets:
  - {path: ./data/wiki, weight: 1.0}
  - path: "/data/code"   # a comment
    revision: '0f0f'
sequence_length: 512
batch_size: 64
seed: 17
shuffle_group: all
phases:
  - {bag_size: 4, steps: 3000, superpose: output}
  - bag_size: 1
    steps: 7000
    weights: [0.5, 3]
""",
    b'{"name": "a", "datasets": [{"path": "x"}],\n\t"sequence_length": 8, "batch_size": 2, "seed": 0,\n'
    b'"phases": [{"bag_size": 2, "steps": 10, "weights": [1]}]}\n',
    b"{name: b, datasets: [{path: ~/x}], sequence_length: 0x10, batch_size: 4, phases: [{bag_size: 1, steps: 1}]}",
]


def _run_file(folder: Path, data: bytes) -> None:
    path = folder / ("run.json" if data.startswith(b'{"') else "run.yaml")
    path.write_bytes(data)
    run = load_run(path)
    canonical = run.specification.canonical()
    assert parse_run(json.dumps(canonical), folder).specification.canonical() == canonical
    assert len(run.specification.fingerprint(["f"] * len(run.specification.datasets))) == 64
    run.dataset_paths()


def _batch(dtype: Any) -> WindowBatch:
    shape: dict[str, Any] = {"bag_size": 2, "sequence_length": 3, "superpose": "both"}
    header = BatchHeader(
        run="r", fingerprint="f" * 64, order_version=1, step=7, phase=0, batch_size=2, rank=0, world_size=1,
        checksum="", **shape,
    )  # fmt: skip
    windows = np.arange(14, dtype=dtype).reshape(2, 7)
    header = BatchHeader(**{**vars(header), "checksum": checksum(windows)})
    return WindowBatch(header, windows, np.array([0, 1], np.uint16), np.array([5, 9], np.uint64))


def _bodies() -> st.SearchStrategy[bytes]:
    """Damaged bodies, and bodies of a sender who gives strange values and columns with the right checksum."""
    valid = [bytes(encode(_batch(dtype))) for dtype in (np.uint16, np.uint32)]
    return inputs(valid) | st.builds(_strange_body, st.integers(0, (1 << 64) - 1))


COLUMNS: list[Any] = [
    pa.array([[1, 2, 3, 4, 5, 6, 7]] * 2, pa.list_(pa.uint16(), 7)),
    pa.array([[1, 2], None], pa.list_(pa.uint16(), 2)),
    pa.array([[], []], pa.list_(pa.uint16(), 0)),
    pa.array([[1.0] * 7] * 2, pa.list_(pa.float32(), 7)),
    pa.array([[1] * 7] * 2, pa.list_(pa.uint16())),
    pa.array([1, 2], pa.uint16()),
    pa.array([1, None], pa.uint16()),
    pa.array([1, 2], pa.uint64()),
    pa.array(["a", "b"]),
    pa.array(["a", "a"]).dictionary_encode(),
    pa.array([True, False]),
    pa.nulls(2),
    pa.array([{"a": 1}, {"a": 2}]),
]


def _strange_body(number: int) -> bytes:
    """The body of that number: up to two fields with extreme values, and perhaps another first column."""
    random = Random(number)
    batch = _batch(np.uint16)
    metadata = {name: str(value) for name, value in vars(batch.header).items()}
    for name in random.sample([*metadata, "x"], random.randrange(3)):
        metadata[name] = random.choice(EXTREMES).decode(errors="replace")
    columns = [random.choice(COLUMNS) for _ in range(random.randrange(1, 4))] if random.randrange(3) else []
    metadata["header_checksum"] = header_checksum(metadata, batch.dataset, batch.first_token)
    whole = [COLUMNS[0], pa.array(batch.dataset), pa.array(batch.first_token)]
    record_batch = pa.record_batch(
        [*columns, *whole[len(columns) :]], names=["window", "dataset", "first_token"], metadata=metadata
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record_batch.schema) as writer:
        writer.write_batch(record_batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _wire(data: bytes) -> None:
    batch = decode(bytearray(data))
    assert batch.windows.shape == (batch.header.num_rows, batch.header.geometry.window_length)
    assert batch.windows.dtype in (np.uint16, np.uint32)
    assert batch.dataset.dtype == np.uint16
    assert batch.first_token.dtype == np.uint64
    assert checksum(batch.windows) == batch.header.checksum


def _manifests(folder: Path) -> list[bytes]:
    made: list[dict[str, Any]] = [{}, {"tool": "t", "sources": ["a"], "lines": False, "validation": 0.5}]
    data = []
    for each in made:
        manifest = Manifest(
            format_version=1,
            fingerprint="f" * 64,
            tokenizer=TokenizerDescription(name="bytes", kind="bytes", hash="a" * 64),
            end_of_text_id=256,
            vocabulary_size=257,
            dtype="uint16",
            sample_tokens=64,
            num_tokens=1000,
            num_documents=10,
            num_shards=1,
            files={"shards.parquet": "0" * 32, "index.json": "1" * 32},
            made=each,
        )
        write_manifest(folder, manifest)
        data.append((folder / MANIFEST_NAME).read_bytes())
    return data


def _manifest(folder: Path, data: bytes) -> None:
    (folder / JOURNAL_NAME).unlink(missing_ok=True)
    (folder / MANIFEST_NAME).write_bytes(data)
    (folder / MANIFEST_HASH_NAME).write_text(f"{hashlib.sha256(data).hexdigest()}  {MANIFEST_NAME}\n")
    manifest = load_manifest(folder)
    write_manifest(folder, manifest)
    assert load_manifest(folder) == manifest


HEADER = {"tokenizer": "a" * 64, "shard_tokens": 4096, "options": {"lines": False}}


def _journal_bytes(folder: Path) -> bytes:
    journal = Journal(folder, HEADER)
    for number in range(2):
        journal.append(
            JournalEntry(
                record=ShardRecord(
                    file=f"shard.{number:05}.mds",
                    samples=64,
                    sample_tokens=64,
                    tokens=4096,
                    num_bytes=9000,
                    token_offset=17,
                    num_documents=3,
                    hash=b"h" * 32,
                    documents_hash=b"d" * 16,
                    pieces=np.arange(2, dtype="<u8"),
                ),
                index_entry={"format": "mds", "samples": 64},
                next_document=3 * number + 3,
                next_document_tokens=0,
            )
        )
    journal.close()
    data = (folder / JOURNAL_NAME).read_bytes()
    (folder / JOURNAL_NAME).unlink()
    return data


def _journal(folder: Path, data: bytes) -> None:
    (folder / JOURNAL_NAME).write_bytes(data)
    journal = Journal(folder, HEADER)
    try:
        for entry in journal:
            assert isinstance(entry.record.file, str)
            assert entry.record.pieces.dtype == np.uint64
            assert isinstance(entry.index_entry, dict)
            numbers = (entry.next_document, entry.next_document_tokens, entry.record.tokens, entry.record.num_bytes)
            assert all(type(number) is int for number in numbers)
    finally:
        journal.close()
