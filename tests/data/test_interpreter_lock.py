"""A slow disk stops one reader and no other thread: what takes long does not hold the interpreter's lock.

python -m pytest tests/data/test_interpreter_lock.py
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tst_data import Dataset, open_dataset
from tst_data.contract.batch import checksum
from tst_data.dataset.window_copy import copy_windows
from tst_data.durable_files import hash_bytes

MIB = 1 << 20


@pytest.fixture
def never_forced() -> Iterator[None]:
    """The interpreter never takes the lock away from a thread: another one runs only if it is released."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def lets_others_run(work: Callable[[], object], tries: int) -> bool:
    """Whether another thread ran during `work`, in one of some tries (the machine may be busy)."""
    count, stop = 0, False

    def run() -> None:
        nonlocal count
        while not stop:
            count += 1
            time.sleep(0.0001)

    thread = threading.Thread(target=run)
    thread.start()
    ran = False
    for _ in range(tries):
        before = count
        work()
        ran = count > before
        if ran:
            break
    stop = True
    thread.join()
    return ran


def windows_of(num_windows: int, num_bytes: int) -> Callable[[], object]:
    maps = [np.zeros(16 * MIB, np.uint8), np.zeros(16 * MIB, np.uint8)]
    numbers = np.arange(num_windows) % 2
    starts = np.arange(num_windows) * 1000
    return lambda: copy_windows(maps, numbers, starts, num_bytes)


BIG = np.zeros((8, 16 * MIB), np.uint16)

WORK: dict[str, Callable[[], object]] = {
    "copy few windows": windows_of(40, MIB - 1),
    "copy many windows": windows_of(2000, 16_000),
    "copy large windows": windows_of(20, 4 * MIB),
    "batch checksum": lambda: checksum(BIG),
    "hash of a file's bytes": lambda: hash_bytes(BIG.data.cast("B")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WORK)
@pytest.mark.usefixtures("never_forced")
def test_what_takes_long_releases_the_lock(name: str) -> None:
    assert lets_others_run(WORK[name], tries=300)


@pytest.mark.usefixtures("never_forced")
def test_this_test_notices_a_lock_that_is_held() -> None:
    source, target = memoryview(bytes(32 * MIB)), memoryview(bytearray(32 * MIB))

    def copy() -> None:
        target[:] = source

    assert not lets_others_run(copy, tries=10)


@pytest.mark.usefixtures("files_are_old")
def test_bytes_that_are_in_no_cache_come_by_preadv(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a read of the first use waits for the disk, other threads read what was verified before."""
    folder = shutil.copytree(tiny_dataset.path, tmp_path / "dataset")
    waiting, disk_ready = threading.Event(), threading.Event()
    preadv = os.preadv
    read: list[Any] = []

    def slow(*arguments: Any) -> int:
        waiting.set()
        assert disk_ready.wait(60)
        return preadv(*arguments)

    with open_dataset(folder) as dataset:
        first = dataset.read(0, 100)
        last = dataset.num_tokens - 100
        monkeypatch.setattr(os, "preadv", slow)
        thread = threading.Thread(target=lambda: read.append(dataset.read(last, 100)))
        thread.start()
        assert waiting.wait(60)
        for _ in range(10):
            assert np.array_equal(dataset.read(0, 100), first)
        assert not read
        disk_ready.set()
        thread.join(60)
        assert np.array_equal(read[0], tiny_dataset.read(last, 100))


def test_windows_come_out_of_any_maps_in_any_order() -> None:
    random = np.random.default_rng(4)
    maps = [random.integers(0, 256, size, np.uint8) for size in (5000, 300, 70_000, 3 * MIB)]
    for num_bytes in (1, 2, 255, 300, 2 * MIB):
        fitting = [number for number, data in enumerate(maps) if len(data) >= num_bytes]
        for num_windows in (1, 7, 600) if num_bytes < MIB else (1, 7):
            numbers = random.choice(fitting, num_windows)
            starts = np.array([random.integers(0, len(maps[number]) - num_bytes + 1) for number in numbers])
            windows = copy_windows(maps, numbers, starts, num_bytes)
            assert windows.flags.writeable
            for window, number, start in zip(windows, numbers, starts, strict=True):
                assert np.array_equal(window, maps[number][start : start + num_bytes])
