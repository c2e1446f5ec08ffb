"""What goes wrong on real machines, made to happen: each fault is real, and can be taken back."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["SmallDisk", "flip_byte", "no_descriptors", "no_permission", "small_disk", "truncated"]


class SmallDisk:
    """A file system of its own with a fixed size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def grow(self, kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(self.folder)], check=True)

    def fill(self) -> Path:
        """A file that takes all the space that is left."""
        path = self.folder / "filler"
        with path.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        return path


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[SmallDisk]:
    """A small disk at `folder`. Skips the test where this process may not mount one."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def flip_byte(path: Path, at: int) -> None:
    """Flip one bit in place. The file keeps its size and its modification time, as when a disk decays."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextmanager
def truncated(path: Path, num_bytes: int) -> Iterator[None]:
    """The file without its end, and whole again afterwards."""
    whole = path.read_bytes()
    os.truncate(path, num_bytes)
    try:
        yield
    finally:
        path.write_bytes(whole)


@contextmanager
def no_descriptors(*pids: int, limit: int = 1) -> Iterator[None]:
    """These processes can open no file whose descriptor is not below `limit`; with 1 none at all.

    A process that waits for several files at once needs a limit of at least their number.
    """
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    for pid, (_, hard) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        for pid, before in limits.items():
            with suppress(ProcessLookupError):  # it has ended
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def no_permission(path: Path, mode: int = 0) -> Iterator[None]:
    """The file or folder with `mode` as its permissions, nothing by default."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)
