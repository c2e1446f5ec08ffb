"""Bagged offline: the same windows as the plan gives, readable by plain StreamingDataset, whole or not there.

python -m pytest tests/data/test_materialized_writer.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import MakeRun
from tst_data import Plan, load_run
from tst_data.dataset.reader import Dataset
from tst_data.errors import ForeignDataError, InvalidInputError
from tst_data.materialized import writer as module
from tst_data.materialized.reader import open_materialized
from tst_data.materialized.writer import materialize
from tst_data.streaming_compat import import_streaming

PHASES = [
    {"bag_size": 4, "steps": 7},
    {"bag_size": 2, "steps": 5, "superpose": "output", "batch_size": 6},
    {"bag_size": 1, "steps": 6},
]


@pytest.fixture
def plan(make_run: MakeRun, tiny_dataset: Dataset) -> Iterator[Plan]:
    with Plan(load_run(make_run(tiny_dataset, phases=PHASES))) as opened:
        yield opened


@pytest.mark.parametrize("shard_bytes", [1, 500, 3000, 1 << 26])
def test_rows_are_the_batches_in_order(plan: Plan, tmp_path: Path, shard_bytes: int) -> None:
    assert materialize(plan, tmp_path / "out", shard_bytes=shard_bytes)
    with open_materialized(tmp_path / "out") as folder:
        assert folder.description == plan.describe()
        for step in range(plan.num_steps):
            for world_size in (1, 2):
                for rank in range(world_size):
                    stored = folder.read_batch(step, rank, world_size)
                    fresh = plan.read_batch(step, rank, world_size)
                    assert stored.header == fresh.header
                    assert np.array_equal(stored.windows, fresh.windows)
                    assert np.array_equal(stored.first_token, fresh.first_token)


@pytest.mark.needs_streaming
@pytest.mark.slow
def test_plain_streaming_dataset_reads_it(plan: Plan, tmp_path: Path) -> None:
    materialize(plan, tmp_path / "out", shard_bytes=3000)
    rows = iter(import_streaming().StreamingDataset(local=str(tmp_path / "out"), batch_size=1, shuffle=False))
    for step in range(plan.num_steps):
        batch = plan.read_batch(step)
        for window, first_token in zip(batch.windows, batch.first_token, strict=True):
            row = next(rows)
            assert row["window"] == window.tobytes()
            assert (row["step"], row["phase"], row["bag_size"], row["dataset"], row["first_token"]) == (
                step,
                batch.header.phase,
                batch.header.bag_size,
                0,
                first_token,
            )
    assert next(rows, None) is None


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("whole_shards", [0, 1, 3])
def test_an_interrupted_call_resumes(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_shards: int
) -> None:
    materialize(plan, tmp_path / "undisturbed", shard_bytes=3000)
    write_shard = module._write_shard
    with pytest.raises(KeyboardInterrupt):
        _interrupt_at(monkeypatch, whole_shards, plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / ".out.materializing" / "shard.00009.mds.part").write_bytes(b"half")
    resumed: list[int] = []

    def record(plan: Plan, folder: Path, number: int, rows: module.ShardRows) -> Any:
        resumed.append(number)
        return write_shard(plan, folder, number, rows)

    monkeypatch.setattr(module, "_write_shard", record)
    assert materialize(plan, tmp_path / "out", shard_bytes=3000)
    assert resumed[0] == whole_shards
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def _interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int, plan: Plan, out: Path) -> None:
    write_shard = module._write_shard

    def write(plan: Plan, folder: Path, at: int, rows: module.ShardRows) -> Any:
        if at == number:
            raise KeyboardInterrupt
        return write_shard(plan, folder, at, rows)

    monkeypatch.setattr(module, "_write_shard", write)
    materialize(plan, out, shard_bytes=3000)


def test_a_finished_folder_is_left_alone(plan: Plan, tmp_path: Path, make_run: MakeRun, tiny_dataset: Dataset) -> None:
    materialize(plan, tmp_path / "out")
    before = files(tmp_path / "out")
    assert not materialize(plan, tmp_path / "out")
    with (
        Plan(load_run(make_run(tiny_dataset, name="other", seed=5))) as other,
        pytest.raises(ForeignDataError, match=f"{plan.fingerprint}.*{other.fingerprint}"),
    ):
        materialize(other, tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_something_else_is_left_alone(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(
        InvalidInputError, match="out: already holds something else; choose another --out, or move it away"
    ):
        materialize(plan, tmp_path / "out")
    assert files(tmp_path / "out") == {"precious": b"x"}


def test_an_unfinished_folder_of_another_run_is_refused(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_run: MakeRun, tiny_dataset: Dataset
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupt_at(monkeypatch, 2, plan, tmp_path / "out")
    with (
        Plan(load_run(make_run(tiny_dataset, name="other", seed=5))) as other,
        pytest.raises(
            ForeignDataError,
            match=f"unfinished run with fingerprint {plan.fingerprint} in shards of 3000 bytes, not one with ",
        ),
    ):
        materialize(other, tmp_path / "out")


def test_a_folder_that_is_being_written_is_refused(plan: Plan, tmp_path: Path) -> None:
    staging = tmp_path / ".out.materializing"
    staging.mkdir()
    with module._locked(staging), pytest.raises(InvalidInputError, match="another process is writing"):
        materialize(plan, tmp_path / "out")
    assert materialize(plan, tmp_path / "out")


def test_run_json_says_where_every_row_is(plan: Plan, tmp_path: Path) -> None:
    materialize(plan, tmp_path / "out", shard_bytes=3000)
    content = json.loads((tmp_path / "out" / "run.json").read_text())
    rows = [(shard["first_row"], shard["rows"]) for shard in content["shards"]]
    assert [first for first, _ in rows] == np.cumsum([0, *(n for _, n in rows)])[:-1].tolist()
    assert sum(n for _, n in rows) == 7 * 4 + 5 * 6 + 6 * 4
