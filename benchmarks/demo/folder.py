"""The demo's output folder: made or emptied at the start, and used by one demo at a time.

A folder that holds other files is refused, so that nothing of the user's is ever deleted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.demo.processes import DemoError
from tst_data.durable_files import try_lock

__all__ = ["MARKER", "claimed"]

MARKER = ".tst-demo"
KEPT = {MARKER, "data"}
"""`data` holds the datasets. They are used again when the corpus is the same."""


@contextlib.contextmanager
def claimed(folder: Path, *, needed_bytes: int) -> Iterator[Path]:
    """The folder, without the files of an earlier demo, and locked. Raises DemoError where it cannot be used."""
    if folder.exists() and not folder.is_dir():
        raise DemoError(f"'{folder}': is a file; give a folder with --output")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise DemoError(f"'{folder}': holds other files than a demo's; give another folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise DemoError(
            f"'{folder}': has room for {free / 1e6:,.0f} MB, but the demo needs {needed_bytes / 1e6:,.0f} MB; make "
            "room, or give another folder with --output"
        )
    with (folder / MARKER).open("a") as marker:
        if not try_lock(marker):
            raise DemoError(f"'{folder}': another demo uses it; wait for its end, or give another folder with --output")
        for entry in folder.iterdir():
            if entry.name not in KEPT:
                _remove(entry)
        (folder / "logs").mkdir()
        yield folder


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        os.unlink(entry)
