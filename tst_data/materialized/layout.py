"""The layout of a materialized run: what `writer` writes and `reader` reads.

A folder of MDS shards, one row for each sequence in the order of the run, with `index.json` (for plain
`streaming.StreamingDataset`) and `run.json`. A shard never spans two phases, so all its rows have one length and a
row is found by multiplication.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tst_data.configuration import Frozen
from tst_data.contract.description import RunDescription

__all__ = ["COLUMNS", "FORMAT_VERSION", "RUN_FILE_NAME", "MaterializedRun", "MaterializedShard", "row_dtype"]

FORMAT_VERSION = 1
RUN_FILE_NAME = "run.json"

COLUMNS = {
    "bag_size": "uint32",
    "dataset": "uint16",
    "first_token": "uint64",
    "phase": "uint32",
    "step": "uint64",
    "window": "bytes",
}
"""MDS columns and their encodings. For each sample MDS writes first the sizes of its variable columns, then the columns
in the order of their names."""


def row_dtype(window_length: int, token_dtype: str) -> np.dtype[Any]:
    """One row as it is in a shard, packed."""
    window = np.dtype((token_dtype, (window_length,)))
    fields = [("window_bytes", "<u4"), *((name, kind) for name, kind in COLUMNS.items() if name != "window")]
    return np.dtype([*fields, ("window", window)])


class MaterializedShard(Frozen):
    """One shard file."""

    file: str
    """Name of the file in the folder."""
    phase: int
    """Phase of all its rows."""
    first_row: int
    """Rows of the run before it."""
    rows: int
    """Rows of the shard."""
    bytes: int
    """Size of the file."""
    pieces: tuple[str, ...]
    """xxh3_64 of each MiB of the file, as 16 hex digits."""


class MaterializedRun(Frozen):
    """The contents of `run.json`."""

    format_version: int
    """Version of the format of the folder."""
    description: RunDescription
    """The run whose batches these are."""
    shards: tuple[MaterializedShard, ...]
    """The shards in the order of their rows."""
