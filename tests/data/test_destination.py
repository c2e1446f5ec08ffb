"""Destinations: errors of the file system become one line about the path that was given."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tst_data.errors import InvalidInputError, TSTError, UnavailableError
from tst_data.stores.destination import local_destination, making_parents, refuse_inside_sources, writing_to


def message_of(destination: Path, error: OSError) -> str:
    with pytest.raises(TSTError) as caught, writing_to(destination):
        raise error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_addresses_of_stores_are_refused() -> None:
    for given in ("s3://bucket/data", "gs://x", "file:///x", "hf://a/b"):
        with pytest.raises(InvalidInputError, match=rf"--out {given}: expected a folder on this machine"):
            local_destination(given)
    assert local_destination("a/b") == Path("a/b")


def test_a_parent_that_is_a_file_or_closed_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "deep" / "out"
    told = rf"^{out}: cannot be written: {tmp_path}/file is not a folder; choose"
    with pytest.raises(TSTError, match=told), writing_to(out):
        (out.parent / ".out.converting").mkdir(parents=True)
    out = tmp_path / "deep" / "out"
    for code in (errno.EROFS, errno.EACCES):
        told = message_of(out, OSError(code, os.strerror(code), str(tmp_path / "deep")))
        assert told == (
            f"{out}: cannot be written: no permission to write to {tmp_path} ({os.strerror(code)}); "
            "get the permission, or choose another --out"
        )
    staged = out.parent / ".out.converting" / "training" / "shard.00000.mds"
    assert "no space is left; make room" in message_of(out, OSError(errno.ENOSPC, "No space", str(staged)))
    assert "no space is left; make room" in message_of(out, OSError(errno.ENOSPC, "No space"))
    assert "File name too long" in message_of(out, OSError(errno.ENAMETOOLONG, "File name too long", str(out)))


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "denied", "/elsewhere/a.mds"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError(errno.EACCES, "denied", "/data/other/a.mds"),
        UnavailableError("the Hub does not respond"),
    ],
)
def test_other_errors_pass_unchanged(error: OSError) -> None:
    with pytest.raises(type(error)) as caught, writing_to(Path("/data/out")):
        raise error
    assert caught.value is error


def test_a_destination_below_a_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "in" / "deep")
    for out in (tmp_path / "in" / "out", tmp_path / "in" / "a" / "out", tmp_path / "link" / "out"):
        with pytest.raises(InvalidInputError, match=r"out: is in the source folder .*/in, .*choose an --out outside"):
            refuse_inside_sources(out, [str(tmp_path / "nowhere"), str(tmp_path / "in")])
    for out in (tmp_path / "out", tmp_path / "in-out", tmp_path / "in"):
        refuse_inside_sources(out, [str(tmp_path / "in"), f"{tmp_path}/*", "hf://a/b"])


def test_parents_are_removed_after_an_error_as_far_as_they_are_empty(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    out = tmp_path / "a" / "b" / "c" / "out"
    with making_parents(out):
        assert out.parent.is_dir()
    assert out.parent.is_dir()
    with pytest.raises(KeyError), making_parents(out):
        raise KeyError
    assert out.parent.is_dir()  # they were there before
    out.parent.rmdir()

    def disturb() -> None:
        (out.parent.parent / "of somebody else").touch()
        raise KeyError

    with pytest.raises(KeyError), making_parents(out):
        disturb()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["of somebody else"]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), making_parents(tmp_path / "file" / "x" / "out"):
        pass
    with pytest.raises(OSError, match="File name too long"), making_parents(tmp_path / "new" / ("x" * 300) / "out"):
        pass
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", ["", ".", "/", "a/.."])
def test_a_destination_has_a_name(given: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^--out .*: has no name; give the path of a folder to make"):
        local_destination(given)
