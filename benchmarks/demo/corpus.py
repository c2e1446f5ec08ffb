"""Real text that every machine has: the Python source of the standard library and of the installed packages.

It is split by top-level package, so the held-out text is from projects that the model has never read. A hash of the
package's name decides which are held out. A name that also appears inside another package is never held out: that is
how copies of a package look (pip alone contains a dozen), and a model that has read the copy would seem to know the
original. Packages larger than a tenth of the training text are not held out either, because one style would dominate.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tst_data.errors import InvalidInputError

__all__ = ["Package", "Split", "find_packages", "held_out_sources", "split_packages"]

GENERATED = frozenset({"oci"})
"""Over 200 MB of generated client code, from which a model learns little."""

NOT_PACKAGES = frozenset({"site-packages", "dist-packages", "__pycache__"})
SUFFIX = ".py"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A top-level package or module: its Python files relative to `path`, with their sizes."""

    name: str
    path: Path
    files: tuple[tuple[str, int], ...]

    @property
    def size_bytes(self) -> int:
        return sum(size for _, size in self.files)

    def path_of(self, file: str) -> Path:
        """The path of one of its files. A module that is a single file has the one file ""."""
        return self.path / file if file else self.path

    @property
    def inner_names(self) -> set[str]:
        """Names of the folders and modules below the top level."""
        names: set[str] = set()
        for file, _ in self.files:
            parts = file.split("/")
            names.update(parts[:-1])
            names.add(parts[-1].removesuffix(SUFFIX))
        return names - {"", "__init__", self.name}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Packages to train on, packages to evaluate on, and packages that are not needed."""

    training: tuple[Package, ...]
    held_out: tuple[Package, ...]
    left_out: tuple[Package, ...]

    @property
    def training_bytes(self) -> int:
        return sum(package.size_bytes for package in self.training)

    @property
    def held_out_bytes(self) -> int:
        return sum(package.size_bytes for package in self.held_out)


def find_packages(roots: Sequence[Path] | None = None) -> list[Package]:
    """All packages with Python files below the roots, by name.

    Default: the interpreter's standard library and site-packages. A name that is in two roots is taken from the first.
    """
    if roots is None:
        paths = sysconfig.get_paths()
        roots = [Path(paths[key]) for key in ("stdlib", "purelib", "platlib")]
    found: dict[str, Package] = {}
    for root in dict.fromkeys(path.resolve() for path in roots):
        for entry in sorted(root.iterdir()) if root.is_dir() else ():
            package = _package(entry)
            if package is not None:
                found.setdefault(package.name, package)
    return [found[name] for name in sorted(found)]


def _package(entry: Path) -> Package | None:
    if entry.name.startswith((".", "__editable__")) or entry.name in NOT_PACKAGES | GENERATED or entry.is_symlink():
        return None
    if entry.is_dir():
        files = tuple(sorted(_python_files(entry)))
        return Package(name=entry.name, path=entry, files=files) if files else None
    if entry.suffix == SUFFIX and entry.is_file():
        return Package(name=entry.stem, path=entry, files=(("", entry.stat().st_size),))
    return None


def _python_files(folder: Path) -> Iterable[tuple[str, int]]:
    """Files as `tst-data convert FOLDER --include '*.py'` finds them."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(root, name)
            if name.endswith(SUFFIX) and not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix(), path.stat().st_size


def split_packages(packages: Sequence[Package], *, training_bytes: int, held_out_bytes: int) -> Split:
    """Held-out packages until they have `held_out_bytes`, then training packages up to `training_bytes`.

    Both in the order of a hash of the names. Raises InvalidInputError where there is not enough text.
    """
    ordered = sorted(packages, key=lambda package: _hash(package.name))
    inner: dict[str, int] = {}
    for package in ordered:
        for name in package.inner_names:
            inner[name] = inner.get(name, 0) + 1
    held_out: list[Package] = []
    training: list[Package] = []
    left_out: list[Package] = []
    num_held_out = num_training = 0
    for package in ordered:
        size = package.size_bytes
        largest = min(training_bytes // 10, held_out_bytes // 3)
        if num_held_out < held_out_bytes and package.name not in inner and size <= largest:
            held_out.append(package)
            num_held_out += size
        elif num_training + size <= training_bytes:
            training.append(package)
            num_training += size
        else:
            left_out.append(package)
    if num_held_out < held_out_bytes // 2 or num_training < training_bytes // 2:
        raise InvalidInputError(
            f"installed packages: hold {num_training:,} bytes of Python source to train on and {num_held_out:,} to "
            f"hold out (expected at least {training_bytes // 2:,} and {held_out_bytes // 2:,}); install the extra 'dev'"
        )
    return Split(training=tuple(training), held_out=tuple(held_out), left_out=tuple(left_out))


def held_out_sources(packages: Iterable[Package]) -> list[str]:
    """The files of held-out packages in the order of a hash, so that every part of their stream mixes many packages."""
    files = [(package, file, size) for package in packages for file, size in package.files]
    files.sort(key=lambda item: _hash(f"{item[0].name}/{item[1]}/{item[2]}"))
    return [str(package.path_of(file)) for package, file, _ in files]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).digest()
