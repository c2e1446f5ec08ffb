"""A file is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import xxhash

from tst_data.durable_files import hash_bytes, hash_file, write_atomically, write_file_atomically


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
