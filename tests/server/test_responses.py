"""Parts of a response that need no server. python -m pytest tests/server/test_responses.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.api.responses import matches
from tests.conftest import MakeRun
from tst_data import Plan, load_run
from tst_data.contract.wire import encode, encode_parts
from tst_data.dataset.reader import Dataset
from tst_data.dataset.writer import write_dataset


@pytest.mark.parametrize(
    ("header", "matching"),
    [(None, False), ("", False), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ('"b"', False), ("*", True)],
)
def test_if_none_match(header: str | None, matching: bool) -> None:
    assert matches('"a"', header) is matching


def test_parts_are_the_body_and_the_large_one_is_the_windows_themselves(tmp_path: Path, make_run: MakeRun) -> None:
    tokens = np.arange(40_000) % 999
    with write_dataset(tmp_path / "data", [tokens], vocabulary_size=1000, end_of_text_id=999) as dataset:
        path = make_run(dataset, sequence_length=1024, batch_size=36, phases=[{"bag_size": 1, "steps": 1}])
    with Plan(load_run(path)) as plan:
        batch = plan.read_batch(0)
    parts = encode_parts(batch)
    assert b"".join(parts) == bytes(encode(batch))
    largest = np.frombuffer(max(parts, key=len), batch.windows.dtype)
    assert np.shares_memory(largest, batch.windows)


def test_small_batches_are_one_part(make_run: MakeRun, tiny_dataset: Dataset) -> None:
    with Plan(load_run(make_run(tiny_dataset))) as plan:
        batch = plan.read_batch(0)
    assert [bytes(part) for part in encode_parts(batch)] == [bytes(encode(batch))]
