"""Materializing: the same command, given again when the cause is gone, ends with the bytes of an undisturbed one.

Until then the destination does not exist, and the command has said in one line what is wrong.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import write_run
from tests.restarts.faults.conftest import Data, replacement_of
from tests.support.conversion import Outcome, check_refused, hashes_of
from tests.support.faults import flip_byte, no_descriptors, no_permission, small_disk
from tests.support.forked import Child, Forkserver, forkserver
from tst_data.errors import DamagedDataError
from tst_data.materialized.reader import open_materialized

pytestmark = pytest.mark.slow


class Materialization(NamedTuple):
    """A run, a destination, and the command that writes one's batches into the other."""

    forks: Forkserver
    data: Data
    run: Path
    out: Path
    expected: dict[str, str]
    """Hashes of the files of an undisturbed command."""

    @property
    def staging(self) -> Path:
        return self.out.with_name(f".{self.out.name}.materializing")

    def start(self) -> Child:
        return self.forks.start("tests.support.entries:materialize_small_shards", str(self.run), str(self.out))

    def ended(self) -> Outcome:
        return self.start().wait()

    def ends_as_expected(self) -> bool:
        """Whether the same command ends well now, with the expected files, and leaves nothing else behind."""
        outcome = self.ended()
        assert outcome.code == 0, outcome.errors
        return hashes_of(self.out) == self.expected and not self.staging.exists()

    def wait_for_shards(self, number: int) -> None:
        deadline = time.monotonic() + 60
        while len(list(self.staging.glob("*.mds"))) < number:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def interrupt(self) -> None:
        """Begin, and end by `kill -9` when three shards are written."""
        child = self.start()
        self.wait_for_shards(3)
        child.kill()
        assert child.wait().code == -9


@pytest.fixture(scope="module")
def forks() -> Iterator[Forkserver]:
    with forkserver("tests.support.entries", "tst_data.streaming_compat:import_streaming") as server:
        yield server


@pytest.fixture
def task(forks: Forkserver, data: Data, tmp_path: Path) -> Materialization:
    phases = [{"bag_size": 1, "steps": 800}]
    run = write_run(data.dataset, folder=tmp_path, name="long", batch_size=4, shuffle_group=1, phases=phases)
    whole = tmp_path / "whole"
    arguments = str(run), str(whole)
    assert forks.start("tests.support.entries:materialize_small_shards", *arguments).wait().code == 0
    (tmp_path / "out").mkdir()
    return Materialization(forks, data, run, tmp_path / "out" / "folder", hashes_of(whole))


def test_kill_9(task: Materialization) -> None:
    """Resumes: after the last whole shard."""
    task.interrupt()
    assert not task.out.exists()
    assert task.ends_as_expected()


def test_disk_full(task: Materialization) -> None:
    """Refused: one line. With more space the same command resumes."""
    with small_disk(task.out.parent, 60) as disk:
        outcome = task.ended()
        check_refused(outcome, "no space is left")
        assert not task.out.exists()
        disk.grow(8192)
        assert task.ends_as_expected()


def test_file_replaced(task: Materialization, tiny_documents: list[Any], tmp_path: Path) -> None:
    """Refused: a dataset that was replaced is named with both fingerprints. Put back, the command resumes."""
    task.interrupt()
    task.data.dataset.rename(tmp_path / "moved")
    replacement_of(tiny_documents, task.data.dataset)
    outcome = task.ended()
    check_refused(outcome, "fingerprint")
    assert not task.out.exists()
    task.data.dataset.rename(tmp_path / "replacement")
    (tmp_path / "moved").rename(task.data.dataset)
    assert task.ends_as_expected()


def test_file_truncated(task: Materialization) -> None:
    """Resumes: a journal whose last line is torn loses that shard and no more."""
    task.interrupt()
    journal = task.staging / "materialize.journal"
    os.truncate(journal, journal.stat().st_size - 7)
    assert task.ends_as_expected()


def test_byte_flipped_before_use(task: Materialization) -> None:
    """Refused: the damaged shard of the dataset is named, and nothing is at the destination. Restored, it resumes."""
    flip_byte(task.data.other, 5000)
    outcome = task.ended()
    check_refused(outcome, f"{task.data.other.name}.*piece 0")
    assert not task.out.exists()
    flip_byte(task.data.other, 5000)
    assert task.ends_as_expected()


def test_byte_flipped_after_use(task: Materialization) -> None:
    """Refused: a reader of the finished folder names the piece, also if it has read it before."""
    assert task.ends_as_expected()
    with open_materialized(task.out) as folder:
        expected = [folder.read_batch(step).header.checksum for step in (0, 1)]
        flip_byte(task.out / "shard.00000.mds", 500)
        with pytest.raises(DamagedDataError, match=r"shard\.00000\.mds: piece 0"):
            folder.read_batch(0)
        flip_byte(task.out / "shard.00000.mds", 500)
        assert [folder.read_batch(step).header.checksum for step in (0, 1)] == expected


def test_descriptors_exhausted(task: Materialization) -> None:
    """Refused: one line. When files can be opened, the same command resumes."""
    child = task.start()
    task.wait_for_shards(3)
    with no_descriptors(child.pid):
        outcome = child.wait()
        check_refused(outcome, "Too many open files")
    assert not task.out.exists()
    assert task.ends_as_expected()


def test_permission_lost(task: Materialization) -> None:
    """Refused: one line. With the permission the same command resumes."""
    child = task.start()
    task.wait_for_shards(3)
    with no_permission(task.staging, 0o500):
        outcome = child.wait()
        check_refused(outcome, "Permission denied")
        assert not task.out.exists()
    assert task.ends_as_expected()


def test_two_writers_at_once(task: Materialization) -> None:
    """Refused: the second one, in one line. The first ends undisturbed."""
    first = task.start()
    task.wait_for_shards(1)
    with first.paused():
        second = task.ended()
        check_refused(second, "another process is writing")
    assert first.wait().code == 0
    assert hashes_of(task.out) == task.expected
