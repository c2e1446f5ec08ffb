"""Reading: a batch holds the tokens of its fingerprint, or it is an error that says what to do; never anything else.

A process has opened a run and reads steps. Two shards are used: that of step 0, and one that it has not read yet.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.restarts.faults.conftest import Data, replacement_of
from tests.support.conversion import check_refused
from tests.support.faults import flip_byte, no_descriptors, no_permission, small_disk, truncated
from tests.support.forked import Child, Forkserver, forkserver
from tst_data import Plan, load_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def forks() -> Iterator[Forkserver]:
    with forkserver("tests.support.entries") as server:
        yield server


@pytest.fixture
def reader(forks: Forkserver, data: Data) -> Iterator[Child]:
    """The process that has opened the run and read step 0."""
    child = open_run(forks, data)
    yield child
    child.wait()


def open_run(forks: Forkserver, data: Data, entry: str = "read_steps") -> Child:
    child = forks.start(f"tests.support.entries:{entry}", str(data.run))
    assert "fingerprint" in child.next_line()
    assert child.ask("0") == {"checksum": data.expected[0]}
    return child


def reads_all(child: Child, data: Data) -> bool:
    return all(child.ask(str(step)) == {"checksum": checksum} for step, checksum in data.expected.items())


def refused(answer: dict[str, str], kind: str, *parts: str) -> None:
    assert answer.get("error") == kind, answer
    assert "\n" not in answer["message"]
    for part in parts:
        assert part in answer["message"], answer


def test_kill_9(forks: Forkserver, data: Data) -> None:
    """Same: the next process reads the same batches."""
    child = open_run(forks, data)
    child.kill()
    assert child.wait().code == -9
    child = open_run(forks, data)
    assert reads_all(child, data)
    child.wait()


def test_disk_full(forks: Forkserver, data: Data, tmp_path: Path) -> None:
    """Same: reading needs no space."""
    with small_disk(tmp_path / "disk", 4096) as disk:
        shutil.move(data.dataset, disk.folder / "dataset")
        data.dataset.symlink_to(disk.folder / "dataset")
        disk.fill()
        child = open_run(forks, data)
        assert reads_all(child, data)
        child.wait()


def test_file_replaced(reader: Child, forks: Forkserver, data: Data, tiny_documents: list[Any], tmp_path: Path) -> None:
    """Same: an open run gives its own tokens, though the folder is another dataset now.

    Opened again, the run has another fingerprint.
    """
    replacement = replacement_of(tiny_documents, tmp_path / "replacement")
    data.dataset.rename(tmp_path / "moved")
    replacement.rename(data.dataset)
    assert reads_all(reader, data)
    again = forks.start("tests.support.entries:read_steps", str(data.run))
    with Plan(load_run(data.run)) as plan:
        assert again.next_line() == {"fingerprint": plan.fingerprint}
        assert again.ask("0") == {"checksum": plan.read_batch(0).header.checksum}
        assert plan.read_batch(0).header.checksum != data.expected[0]
    again.wait()


def test_file_truncated(reader: Child, data: Data) -> None:
    """Refused: the shard is named with both sizes, and other shards are read. Restored, it gives the same batches."""
    size = data.used.stat().st_size
    with truncated(data.used, size - 10):
        refused(reader.ask("1"), "DamagedDataError", str(data.used), str(size), str(size - 10))
        assert reader.ask("100") == {"checksum": data.expected[100]}
    assert reads_all(reader, data)


def test_byte_flipped_before_use(reader: Child, data: Data) -> None:
    """Refused: the piece is named before a byte of it is given. Flipped back, it gives the same batches."""
    flip_byte(data.other, data.other.stat().st_size - 100)
    refused(reader.ask("100"), "DamagedDataError", str(data.other), "piece 0")
    refused(reader.ask("100"), "DamagedDataError", str(data.other), "piece 0")
    flip_byte(data.other, data.other.stat().st_size - 100)
    assert reads_all(reader, data)


def test_byte_flipped_after_use(reader: Child, data: Data) -> None:
    """Refused: also in a piece that was verified before, and with the file's time restored."""
    flip_byte(data.used, data.place)
    refused(reader.ask("1"), "DamagedDataError", str(data.used), "piece 0")
    flip_byte(data.used, data.place)
    assert reads_all(reader, data)


def test_descriptors_exhausted(forks: Forkserver, data: Data) -> None:
    """Unavailable: it is not called damage, and the same process reads the batch when files can be opened again."""
    reader = open_run(forks, data, "read_steps_of_old_files")
    with no_descriptors(reader.pid):
        refused(reader.ask("100"), "UnavailableError", str(data.other))
        assert reader.ask("1") == {"checksum": data.expected[1]}
    assert reads_all(reader, data)
    reader.wait()


def test_permission_lost(reader: Child, data: Data) -> None:
    """Unavailable: it is not called damage, and the same process reads the batch when it may again."""
    with no_permission(data.other):
        refused(reader.ask("100"), "UnavailableError", str(data.other))
    assert reads_all(reader, data)


def test_two_writers_at_once(reader: Child, forks: Forkserver, data: Data, tmp_path: Path) -> None:
    """Same: nobody can write into a finished dataset; a conversion there is refused, and readers notice nothing."""
    source = tmp_path / "text.txt"
    source.write_text("other text")
    outcome = forks.tst_data("convert", source, "--tokenizer", "bytes", "--out", data.dataset).wait()
    check_refused(outcome, f"{re.escape(str(data.dataset))}.*already holds")
    assert reads_all(reader, data)
