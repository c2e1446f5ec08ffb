"""The document index agrees with a brute-force search, for any lengths of documents and shards.

python -m pytest tests/data/test_document_index.py
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tst_data.dataset.document_index import Document, DocumentColumns
from tst_data.dataset.reader import Dataset, open_dataset
from tst_data.dataset.writer import write_dataset
from tst_data.errors import DamagedDataError, InvalidInputError


def expected_documents(lengths: list[int], first_token: int, num_tokens: int) -> list[tuple[int, int, int]]:
    """Row, first token and length of the documents of these lengths that share a token with the range."""
    ends = np.cumsum(lengths)
    return [
        (row, int(end) - length, length)
        for row, (end, length) in enumerate(zip(ends, lengths, strict=True))
        if max(first_token, int(end) - length) < min(first_token + num_tokens, int(end))
    ]


def found_documents(dataset: Dataset, first_token: int, num_tokens: int) -> list[tuple[int, int, int]]:
    found = dataset.documents(first_token, num_tokens)
    assert all(document.id == str(document.row) and document.source == "documents" for document in found)
    return [(document.row, document.first_token, document.length) for document in found]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([0, 0, 1, 2, 5, 7, 8, 9, 30, 70]), min_size=1, max_size=20),
    data=st.data(),
)
def test_lookups_equal_brute_force(lengths: list[int], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(
            Path(folder) / "dataset",
            [np.zeros(length, np.int64) for length in lengths],
            vocabulary_size=2,
            end_of_text_id=1,
            sample_tokens=4,
            shard_tokens=8,
        )
        closed = [length + 1 for length in lengths]
        assert found_documents(dataset, 0, dataset.num_tokens) == expected_documents(closed, 0, dataset.num_tokens)
        for first_token in range(dataset.num_tokens):
            num_tokens = data.draw(st.integers(0, dataset.num_tokens - first_token))
            assert found_documents(dataset, first_token, num_tokens) == expected_documents(
                closed, first_token, num_tokens
            )


def test_a_document_over_many_shards_is_found_from_its_middle(tmp_path: Path) -> None:
    long_document = np.zeros(1000, np.int64)
    dataset = write_dataset(
        tmp_path / "dataset",
        [[], long_document, []],
        vocabulary_size=2,
        end_of_text_id=1,
        shard_tokens=8,
        sample_tokens=8,
    )
    assert found_documents(dataset, 504, 8) == [(1, 1, 1001)]
    assert sum(dataset._table.num_documents) == 3


def test_ranges_outside_the_stream_are_refused(tiny_dataset: Dataset) -> None:
    for first_token, num_tokens in [(-1, 2), (0, tiny_dataset.num_tokens + 1), (tiny_dataset.num_tokens, 1), (0, -1)]:
        with pytest.raises(InvalidInputError, match=f"': has {tiny_dataset.num_tokens} tokens, but "):
            tiny_dataset.documents(first_token, num_tokens)


@pytest.mark.parametrize("damage", ["change", "truncate", "remove"])
def test_a_damaged_document_file_is_named(tiny_dataset: Dataset, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(tiny_dataset.path, tmp_path / "dataset"))
    path = folder / "documents" / "shard.00001.parquet"
    data = path.read_bytes()
    path.unlink()
    if damage != "remove":
        path.write_bytes(data[:-1] + (b"" if damage == "truncate" else bytes([data[-1] ^ 1])))
    with open_dataset(folder) as dataset:
        assert dataset.documents(0, 10)
        for _ in range(2):
            with pytest.raises(DamagedDataError, match=r"shard\.00001\.parquet: "):
                dataset.documents(4096, 4096)
        with pytest.raises(DamagedDataError, match=r"shard\.00001\.parquet: "):
            dataset.verify()


def test_columns_keep_every_value_over_chunks_of_ids() -> None:
    columns = DocumentColumns()
    count = (1 << 16) + 3
    for row in range(count):
        columns.append(id=f"é{row}", source=f"file{row % 3}", row=row, first_token=2 * row, length=2)
    table = columns.table()
    assert len(columns) == len(table) == count
    assert table["id"].to_pylist() == [f"é{row}" for row in range(count)]
    assert table["source"].to_pylist() == [f"file{row % 3}" for row in range(count)]
    assert columns.last() == (2 * (count - 1), 2 * count)


def test_a_document_ends_after_its_last_token() -> None:
    assert Document(id="a", source="b", row=0, first_token=5, length=3).end == 8
