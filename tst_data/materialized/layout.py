"""The layout of a materialised run: what `materialize` writes and `materialized` reads.

A folder of MDS shards, one row per sequence in the order of the run, beside `index.json` (for plain
`streaming.StreamingDataset`) and `run.json`. A shard never spans two phases, so all its rows have one length and a
row is found by multiplication.
"""

from __future__ import annotations

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
"""MDS columns and their encodings. MDS lays a sample out as the sizes of its variable columns, then the columns by
name."""


def row_dtype(window_length: int, token_dtype: str) -> np.dtype:
    """One row as it lies in a shard, packed."""
    window = np.dtype((token_dtype, (window_length,)))
    fields = [("window_bytes", "<u4"), *((name, kind) for name, kind in COLUMNS.items() if name != "window")]
    return np.dtype([*fields, ("window", window)])


class MaterializedShard(Frozen):
    """One shard file. `first_row` counts rows through the whole run; `pieces` are xxh3_64 of each MiB of the file."""

    file: str
    phase: int
    first_row: int
    rows: int
    bytes: int
    pieces: tuple[str, ...]


class MaterializedRun(Frozen):
    """The contents of `run.json`."""

    format_version: int
    description: RunDescription
    shards: tuple[MaterializedShard, ...]
