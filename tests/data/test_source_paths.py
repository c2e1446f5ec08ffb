"""Files of folders and globs: the same as the standard library finds, and nothing is left out without an error."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tst_data.errors import InvalidInputError
from tst_data.sources.paths import files_of_folder, files_of_glob

NAMES = ["b.txt", "a/z.txt", "a/b/c.md", "a/b/d.txt", ".hidden.txt", ".git/config", "a.txt", "[x].txt", "a/.h/i.txt"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def deny(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a folder unreadable, for the superuser too."""
    scandir = os.scandir

    def deny(folder: Path) -> None:
        def refuse(path: str | os.PathLike[str] = ".") -> object:
            if Path(path) == folder:
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)

    return deny


@pytest.mark.parametrize(
    "pattern",
    ["*.txt", "**/*.txt", "**", "a/**", "*/*.txt", "a/*/?.md", "**/b/*", ".*", "[ab].txt", "a/b/c.md*", "**/[!a].txt"],
)
def test_a_pattern_matches_what_glob_matches(tree: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    for given in (pattern, f"{tree}/{pattern}", f"./{pattern}"):
        expected = {Path(match) for match in glob.glob(given, recursive=True) if os.path.isfile(match)}
        assert expected
        assert files_of_glob(given) == sorted(expected, key=lambda path: path.parts)


def test_a_folder_that_cannot_be_listed_is_named(tree: Path, deny: Callable[[Path], None]) -> None:
    deny(tree / "a" / "b")
    finds: list[Callable[[], list[Path]]] = [
        lambda: files_of_folder(tree),
        lambda: files_of_glob(f"{tree}/**/*.txt"),
    ]
    for find in finds:
        with pytest.raises(InvalidInputError, match=r"a/b: cannot be read \(Permission denied\).*readable") as got:
            find()
        assert "\n" not in str(got.value)
    assert files_of_glob(f"{tree}/a/*.txt") == [tree / "a" / "z.txt"]


def test_links_to_nothing_are_refused_and_links_back_end(tree: Path) -> None:
    (tree / "a" / "back").symlink_to(tree)
    assert files_of_glob(f"{tree}/**/c.md") == [tree / "a" / "b" / "c.md"]
    (tree / "a" / "linked").symlink_to(tree / "a" / "b")
    assert tree / "a" / "linked" / "c.md" in files_of_glob(f"{tree}/**/c.md")
    (tree / "lost.txt").symlink_to(tree / "gone.txt")
    finds: list[Callable[[], list[Path]]] = [lambda: files_of_folder(tree), lambda: files_of_glob(f"{tree}/*.txt")]
    for find in finds:
        with pytest.raises(InvalidInputError, match=r"lost\.txt: is a link to a file that does not exist"):
            find()
    assert files_of_folder(tree, lambda path: path.suffix == ".md") == [tree / "a" / "b" / "c.md"]
