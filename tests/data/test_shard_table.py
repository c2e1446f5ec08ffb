"""The shard table gives back every column, for shards of every row group.

python -m pytest tests/data/test_shard_table.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tst_data.dataset.shard_table as module
from tst_data.dataset.folder import DatasetFolder
from tst_data.dataset.shard_table import ShardRecord, ShardTable, write_shard_table
from tst_data.errors import DamagedDataError


def record(shard: int) -> ShardRecord:
    random = np.random.default_rng(shard)
    return ShardRecord(
        file=f"shard.{shard:05}.mds",
        samples=shard + 1,
        sample_tokens=16,
        tokens=16 * (shard + 1),
        num_bytes=5_000_000_000 + shard,
        token_offset=100 + shard,
        num_documents=shard % 3,
        hash=random.bytes(32),
        documents_hash=random.bytes(16),
        pieces=random.integers(0, 1 << 64, 1 + shard % 5, dtype=np.uint64),
    )


def test_every_column_comes_back_over_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROW_GROUP_SHARDS", 7)
    monkeypatch.setattr(module, "_CACHED_ROW_GROUPS", 2)
    records = [record(shard) for shard in range(40)]
    write_shard_table(tmp_path / "shards.parquet", iter(records))
    assert pq.ParquetFile(tmp_path / "shards.parquet").num_row_groups == 6
    table = ShardTable(DatasetFolder(tmp_path))
    assert len(table) == 40
    for name in ("tokens", "num_bytes", "token_offset", "num_documents"):
        assert getattr(table, name).tolist() == [getattr(record, name) for record in records]
    for shard in [*range(40), 3, 39, 20, 6, 7]:
        assert np.array_equal(table.pieces(shard), records[shard].pieces)
        assert table.file_name(shard) == records[shard].file
        assert table.hashes[shard].tobytes() == records[shard].hash
        assert table.documents_hash(shard) == records[shard].documents_hash.hex()
        assert len(table._row_groups) <= 2


def test_what_is_not_a_shard_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shards.parquet").write_bytes(b"PAR1 is not all it takes")
    with pytest.raises(DamagedDataError, match=r"shards\.parquet: cannot be read"):
        ShardTable(DatasetFolder(tmp_path))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "shards.parquet")
    with pytest.raises(DamagedDataError, match=r"shards\.parquet: has columns \['a'\], expected"):
        ShardTable(DatasetFolder(tmp_path))


def test_pieces_damaged_after_opening_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "shards.parquet"
    write_shard_table(path, [record(shard) for shard in range(3)])
    table = ShardTable(DatasetFolder(tmp_path))
    data = bytearray(path.read_bytes())
    at = data.index(record(1).pieces.tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedDataError, match=r"shards\.parquet: was changed since the dataset was opened"):
        table.pieces(1)
