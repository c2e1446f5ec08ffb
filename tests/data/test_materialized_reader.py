"""Reading a materialized run: the plan's batches, and all damage is noticed.

python -m pytest tests/data/test_materialized_reader.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tst_data import Dataset, Plan, load_run
from tst_data.errors import DamagedDataError, InvalidInputError, NotFoundError
from tst_data.materialized.reader import open_materialized
from tst_data.materialized.writer import materialize

PHASES = [
    {"bag_size": 4, "steps": 3},
    {"bag_size": 2, "steps": 2, "superpose": "output", "batch_size": 6},
    {"bag_size": 1, "steps": 3, "sequence_length": 40},
]


@pytest.fixture
def plan(make_run: Callable[..., Path], tiny_dataset: Dataset) -> Iterator[Plan]:
    with Plan(load_run(make_run(tiny_dataset, phases=PHASES))) as plan:
        yield plan


@pytest.fixture
def folder(plan: Plan, tmp_path: Path) -> Path:
    materialize(plan, tmp_path / "out", shard_bytes=700)
    return tmp_path / "out"


def test_batches_are_those_of_the_plan_at_every_share(plan: Plan, folder: Path) -> None:
    with open_materialized(folder) as run:
        assert run.description == plan.describe()
        for step in reversed(range(plan.num_steps)):
            for world_size in (1, 2):
                for rank in range(world_size):
                    batch, expected = run.read_batch(step, rank, world_size), plan.read_batch(step, rank, world_size)
                    assert batch.header == expected.header
                    for name in ("windows", "dataset", "first_token"):
                        got, wanted = getattr(batch, name), getattr(expected, name)
                        assert got.dtype == wanted.dtype
                        assert np.array_equal(got, wanted)


def test_shares_and_steps_that_do_not_exist_are_refused_as_by_the_plan(plan: Plan, folder: Path) -> None:
    with open_materialized(folder) as run:
        for arguments, error in [((8,), NotFoundError), ((0, 0, 3), InvalidInputError), ((0, 2, 2), InvalidInputError)]:
            with pytest.raises(error) as of_folder:
                run.read_batch(*arguments)
            with pytest.raises(error) as of_plan:
                plan.read_batch(*arguments)
            assert str(of_folder.value) == str(of_plan.value)


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_changed_shard_is_noticed_when_it_is_read(folder: Path, place: float) -> None:
    shard = sorted(folder.glob("*.mds"))[0]
    data = bytearray(shard.read_bytes())
    data[int(len(data) * place)] ^= 1
    shard.write_bytes(data)
    with open_materialized(folder) as run, pytest.raises(DamagedDataError, match=shard.name):
        run.read_batch(0)


def test_a_truncated_or_missing_shard_is_noticed(folder: Path) -> None:
    first, *_, last = sorted(folder.glob("*.mds"))
    first.write_bytes(first.read_bytes()[:-1])
    last.unlink()
    with open_materialized(folder) as run:
        with pytest.raises(DamagedDataError, match=first.name):
            run.read_batch(0)
        with pytest.raises(DamagedDataError, match=last.name):
            run.read_batch(run.description.total_steps - 1)


def test_shards_of_equal_layout_are_not_taken_for_one_another(folder: Path) -> None:
    content = json.loads((folder / "run.json").read_text())
    first, second = content["shards"][:2]
    for key in ("file", "pieces"):
        first[key], second[key] = second[key], first[key]
    (folder / "run.json").write_text(json.dumps(content))
    with open_materialized(folder) as run, pytest.raises(DamagedDataError, match="step 0 says step 1"):
        run.read_batch(0)


def _without_last_shard(content: dict[str, Any]) -> None:
    content["shards"].pop()


def _one_shard_too_many(content: dict[str, Any]) -> None:
    content["shards"].append(content["shards"][-1])


def _outside(content: dict[str, Any]) -> None:
    content["shards"][0]["file"] = "../shard.00000.mds"


def _missing_piece(content: dict[str, Any]) -> None:
    content["shards"][0]["pieces"] = []


def _no_hash(content: dict[str, Any]) -> None:
    content["shards"][0]["pieces"] = ["not hexadecimal!"]


def _too_many_rows(content: dict[str, Any]) -> None:
    content["shards"][0]["rows"] += 100


@pytest.mark.parametrize(
    "change", [_without_last_shard, _one_shard_too_many, _outside, _missing_piece, _no_hash, _too_many_rows]
)
def test_a_layout_that_does_not_fit_is_refused_at_opening(
    folder: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    content = json.loads((folder / "run.json").read_text())
    change(content)
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(DamagedDataError, match=r"run\.json"):
        open_materialized(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("", "JSON"), ("[]", "run.json"), ('{"shards": []}', "missing"), ("\x00", "JSON")]
)
def test_something_else_than_a_run_json_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "run.json").write_text(text)
    with pytest.raises(InvalidInputError, match=message) as caught:
        open_materialized(folder)
    assert "\n" not in str(caught.value)


def test_another_format_version_is_refused(folder: Path) -> None:
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(content | {"format_version": 2}))
    with pytest.raises(InvalidInputError, match="has format version 2, this program reads 1"):
        open_materialized(folder)


def test_a_folder_without_run_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"run\.json"):
        open_materialized(tmp_path)


def test_reading_needs_no_streaming(folder: Path) -> None:
    code = (
        "import sys; from tst_data.materialized.reader import open_materialized\n"
        "open_materialized(sys.argv[1]).read_batch(0)\n"
        "print([name for name in ('streaming', 'torch', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
