"""Converting: the same command, given again when the cause is gone, ends with the bytes of an undisturbed conversion.

Until then the destination does not exist, and the command has said in one line what is wrong.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.conversion import Outcome, check_refused, hashes_of
from tests.support.faults import flip_byte, no_descriptors, no_permission, small_disk
from tests.support.forked import Child, Forkserver, forkserver

pytestmark = pytest.mark.slow


class Conversion(NamedTuple):
    """A source, a destination, and the command that converts one into the other."""

    forks: Forkserver
    source: Path
    out: Path
    expected: dict[str, str]
    """Hashes of the files of an undisturbed conversion."""

    @property
    def staging(self) -> Path:
        return self.out.with_name(f".{self.out.name}.converting")

    def start(self) -> Child:
        return self.forks.tst_data("convert", self.source, *OPTIONS, "--out", self.out)

    def run(self) -> Outcome:
        return self.start().wait()

    def ends_as_expected(self) -> bool:
        """Whether the same command ends well now, with the expected files, and leaves nothing else behind."""
        outcome = self.run()
        assert outcome.code == 0, outcome.errors
        return hashes_of(self.out) == self.expected and not self.staging.exists()

    def wait_for_shards(self, number: int) -> None:
        deadline = time.monotonic() + 60
        while len(list(self.staging.glob("training/*.mds"))) < number:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def interrupt(self, shards: int = 3) -> None:
        """Begin, and end by `kill -9` when that many shards are written."""
        child = self.start()
        self.wait_for_shards(shards)
        child.kill()
        assert child.wait().code == -9


OPTIONS = ["--tokenizer", "bytes", "--shard-tokens", "4096", "--workers", "1"]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forkserver]:
    with forkserver("tests.support.entries", "tst_data.streaming_compat:import_streaming") as server:
        yield server


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 400 kB in two files."""
    folder = tmp_path_factory.mktemp("source") / "text"
    folder.mkdir()
    chance = random.Random(11)
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        with gzip.open(folder / name, "wt") as file:
            for _ in range(250):
                file.write(
                    json.dumps({"text": "".join(chance.choices("abcdefgh \n", k=chance.randint(0, 1600)))}) + "\n"
                )
    return folder


@pytest.fixture(scope="module")
def expected(forks: Forkserver, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    whole = tmp_path_factory.mktemp("whole") / "out"
    assert forks.tst_data("convert", source, *OPTIONS, "--out", whole).wait().code == 0
    return hashes_of(whole)


@pytest.fixture
def conversion(forks: Forkserver, source: Path, expected: dict[str, str], tmp_path: Path) -> Conversion:
    (tmp_path / "out").mkdir()
    return Conversion(forks, source, tmp_path / "out" / "dataset", expected)


def test_kill_9(conversion: Conversion) -> None:
    """Resumes: after the last whole shard."""
    conversion.interrupt()
    assert not conversion.out.exists()
    assert conversion.ends_as_expected()


def test_disk_full(conversion: Conversion) -> None:
    """Refused: one line. With more space the same command resumes."""
    with small_disk(conversion.out.parent, 200) as disk:
        outcome = conversion.run()
        check_refused(outcome, "no space is left")
        assert not conversion.out.exists()
        disk.grow(8192)
        assert conversion.ends_as_expected()


def test_file_replaced(conversion: Conversion, source: Path) -> None:
    """Refused: a source that was replaced is never mixed in. Put back, the conversion resumes."""
    conversion.interrupt()
    path = source / "b.jsonl.gz"
    status, kept = path.stat(), path.rename(source.parent / "kept")
    try:
        path.write_bytes(gzip.compress(b'{"text": "another text"}\n'))
        outcome = conversion.run()
        check_refused(outcome, "other source files")
        assert not conversion.out.exists()
    finally:
        kept.replace(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert conversion.ends_as_expected()


def test_file_truncated(conversion: Conversion) -> None:
    """Resumes: a journal whose last line is torn loses that shard and no more."""
    conversion.interrupt()
    journal = conversion.staging / "training" / "conversion.journal"
    os.truncate(journal, journal.stat().st_size - 7)
    assert conversion.ends_as_expected()


def test_byte_flipped_before_use(conversion: Conversion, source: Path) -> None:
    """Refused: the damaged source is named, and nothing is at the destination. Restored, it is converted."""
    path = source / "b.jsonl.gz"
    middle = path.stat().st_size // 2
    flip_byte(path, middle)
    try:
        outcome = conversion.run()
        check_refused(outcome, r"b\.jsonl\.gz")
        assert not conversion.out.exists()
    finally:
        flip_byte(path, middle)
    assert conversion.ends_as_expected()


def test_byte_flipped_after_use(conversion: Conversion) -> None:
    """Refused: `tst-data verify` names the piece of the finished dataset."""
    assert conversion.ends_as_expected()
    shard = conversion.out / "shard.00002.mds"
    flip_byte(shard, 5000)
    outcome = conversion.forks.tst_data("verify", conversion.out).wait()
    check_refused(outcome, r"shard.00002\.mds.*piece 0")
    flip_byte(shard, 5000)
    assert conversion.forks.tst_data("verify", conversion.out).wait().code == 0


def test_descriptors_exhausted(conversion: Conversion) -> None:
    """Refused: one line. When files can be opened, the same command resumes."""
    child = conversion.start()
    conversion.wait_for_shards(3)
    with no_descriptors(child.pid):
        outcome = child.wait()
        check_refused(outcome, "Too many open files")
    assert not conversion.out.exists()
    assert conversion.ends_as_expected()


def test_permission_lost(conversion: Conversion) -> None:
    """Refused: one line. With the permission the same command resumes."""
    child = conversion.start()
    conversion.wait_for_shards(3)
    with no_permission(conversion.staging / "training", 0o500):
        outcome = child.wait()
        check_refused(outcome, "Permission denied")
        assert not conversion.out.exists()
    assert conversion.ends_as_expected()


def test_two_writers_at_once(conversion: Conversion) -> None:
    """Refused: the second one, in one line. The first ends undisturbed."""
    first = conversion.start()
    conversion.wait_for_shards(1)
    with first.paused():
        second = conversion.run()
        check_refused(second, "another process is converting")
    assert first.wait().code == 0
    assert hashes_of(conversion.out) == conversion.expected
