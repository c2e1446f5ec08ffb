"""While the write that changed a file may still be running, nothing of the file is kept as verified.

The kernel sets the times of a file when a write begins. What the tests change with `write_later` is changed after that,
with no sign of it, as the rest of a long write does.

python -m pytest tests/data/test_young_files.py
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import MakeRun
from tst_data import Dataset, Plan, load_run, open_dataset
from tst_data.dataset import folder as folder_module
from tst_data.dataset import shard_reader
from tst_data.dataset.window_copy import copy_windows
from tst_data.errors import DamagedDataError, UnavailableError
from tst_data.materialized.reader import open_materialized
from tst_data.materialized.writer import materialize


@pytest.fixture
def folder(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset.path, tmp_path / "dataset"))


@pytest.fixture(autouse=True)
def times_of_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of a file stay what they were when it was first looked at: the write of it began before."""
    first: dict[int, tuple[int, int]] = {}

    def identity_of(status: os.stat_result) -> tuple[int, ...]:
        times = first.setdefault(status.st_ino, (status.st_mtime_ns, status.st_ctime_ns))
        return (status.st_dev, status.st_ino, status.st_size, *times)

    monkeypatch.setattr(folder_module, "identity_of", identity_of)
    monkeypatch.setattr(shard_reader, "identity_of", identity_of)


def write_later(path: Path) -> None:
    """Change the last bytes."""
    with path.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-10, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def read_all(dataset: Dataset) -> Any:
    return dataset.read(0, dataset.num_tokens)


@pytest.mark.parametrize("max_maps", [None, 1])
def test_what_a_running_write_changes_after_the_verification_is_noticed(folder: Path, max_maps: int | None) -> None:
    with open_dataset(folder, max_maps=max_maps) as dataset:
        read_all(dataset)
        write_later(folder / "shard.00003.mds")
        for _ in range(2):
            with pytest.raises(DamagedDataError, match=r"shard\.00003\.mds: piece 0 .* is not what was written"):
                read_all(dataset)
        write_later(folder / "shard.00003.mds")
        read_all(dataset)


def test_what_a_running_write_changes_in_a_materialized_run_is_noticed(
    folder: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    with Plan(load_run(make_run(folder))) as plan:
        materialize(plan, tmp_path / "run")
    with open_materialized(tmp_path / "run") as run:
        run.read_batch(0)
        write_later(next((tmp_path / "run").glob("*.mds")))
        with pytest.raises(DamagedDataError, match=r"piece 0 .* is not what was written"):
            run.read_batch(0)


@pytest.mark.parametrize("num_changes", [1, 3])
def test_what_a_running_write_changes_during_the_copy_is_noticed(
    folder: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, num_changes: int
) -> None:
    """Damaged where it stays; where the bytes are back at each verification before the copy, the file changes."""
    shards = sorted(folder.glob("*.mds"))
    is_changed = False

    def toggle() -> None:
        nonlocal is_changed
        is_changed = not is_changed
        for path in shards:
            write_later(path)

    def write_and_copy(*arguments: Any) -> Any:
        toggle()
        return copy_windows(*arguments)

    with Plan(load_run(make_run(folder))) as plan:
        plan.read_batch(0)
        monkeypatch.setattr("tst_data.dataset.reader.copy_windows", write_and_copy)
        if num_changes == 1:
            with pytest.raises(DamagedDataError, match="piece 0 "):
                plan.read_batch(0)
        else:
            release = shard_reader.ShardFiles.release

            def release_and_write(self: Any, shard: int) -> None:
                release(self, shard)
                if is_changed:
                    toggle()

            monkeypatch.setattr(shard_reader.ShardFiles, "release", release_and_write)
            with pytest.raises(UnavailableError, match="was changed during each of 3 reads"):
                plan.read_batch(0)


@pytest.mark.parametrize(
    ("seconds", "is_kept"), [(9, False), (11, True), (-5, False), (-100_000, False), (100_000, True)]
)
def test_a_piece_is_kept_as_verified_once_the_file_is_old(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, is_kept: bool
) -> None:
    """Also where the clock of the files is ahead of that of this machine."""
    num_read = 0
    read_piece = shard_reader.ShardFiles.read_piece

    def counted(*arguments: Any) -> memoryview:
        nonlocal num_read
        num_read += 1
        return read_piece(*arguments)

    monkeypatch.setattr(shard_reader.ShardFiles, "read_piece", counted)
    clock = (folder / "shard.00000.mds").stat().st_ctime + seconds
    monkeypatch.setattr("tst_data.dataset.shard_reader.time.time", lambda: clock)
    with open_dataset(folder) as dataset:
        for _ in range(2):
            assert np.array_equal(dataset.read(0, 100), dataset.read(0, 100))
        assert num_read == (1 if is_kept else 8)
        clock += 1_000_000
        for _ in range(2):
            dataset.read(0, 100)
        assert num_read == (1 if is_kept else 9)
