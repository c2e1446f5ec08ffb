"""A file is whole or not there, and a lock has one holder. python -m pytest tests/data/test_durable_files.py"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import IO, Any

import pytest
import xxhash

from tst_data.durable_files import FileLock, hash_bytes, hash_file, write_atomically, write_file_atomically
from tst_data.errors import InvalidInputError


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError, match="bytes-like"), write_file_atomically(path) as file:
        file.writelines([b"new", "not bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    write_atomically(tmp_path / "file", data)
    assert hash_file(tmp_path / "file") == hash_bytes(data) == xxhash.xxh3_128(data).hexdigest()


def test_one_process_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    one, two = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.take()
    assert not two.take()
    one.release()
    assert two.take()
    assert not one.take()
    two.release(remove=True)
    assert list(tmp_path.iterdir()) == []
    assert one.take()
    one.release()
    one.release()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("tst_data.durable_files.fcntl.flock", refuse)
    with pytest.raises(InvalidInputError, match=r"lock': cannot be locked \(No locks available\); choose a folder"):
        FileLock(tmp_path / "lock").take()


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_taken_on_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder removes the file between the opening and the locking by another process."""
    import tst_data.durable_files as module

    one, two = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.take()
    try_lock = module.try_lock

    def released_just_before(file: IO[Any] | int) -> bool:
        monkeypatch.undo()
        one.release(remove=True)
        return try_lock(file)

    monkeypatch.setattr(module, "try_lock", released_just_before)
    assert two.take()
    assert (tmp_path / "lock").exists()
    assert not one.take()
    two.release()
