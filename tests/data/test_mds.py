"""Shards as mosaicml-streaming encodes them. python -m pytest tests/data/test_mds.py"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.mds_encoder import plain_streaming
from tst_data.dataset import mds
from tst_data.dataset.mds import FixedSampleEncoder
from tst_data.materialized.layout import COLUMNS, row_dtype

CASES = [
    ({"tokens": "ndarray:uint16:64"}, np.dtype(("uint16", 64))),
    ({"tokens": "ndarray:uint32:7"}, np.dtype(("uint32", 7))),
    (COLUMNS, row_dtype(33, "uint16")),
]


def encoded(columns: dict[str, str], row: np.dtype[Any], rows: int) -> tuple[bytes, dict[str, Any]]:
    samples = np.random.default_rng(rows).integers(0, 256, rows * row.itemsize).astype(np.uint8)
    return FixedSampleEncoder(columns, row.itemsize).encode(samples, "shard.00000.mds")


@pytest.mark.needs_streaming
@pytest.mark.parametrize(("columns", "row"), CASES)
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_the_encoder_of_the_tests_writes_what_streaming_writes(
    columns: dict[str, str], row: np.dtype[Any], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, entry = encoded(columns, row, rows)
    monkeypatch.setattr(mds, "import_streaming", plain_streaming)
    assert encoded(columns, row, rows) == (data, entry)
