"""A run file or a folder that cannot be read for a while costs no batch, as with a server that is away.

python -m pytest tests/trainer/test_local_source.py
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeRun
from tests.support.streams import one_line, rest_is_the_plans
from trainer_client import BatchStream
from tst_data import Dataset, Plan, load_run
from tst_data.errors import DamagedDataError, UnavailableError
from tst_data.materialized.writer import materialize

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture
def run_file(tiny_dataset: Dataset, tmp_path: Path, make_run: MakeRun) -> Path:
    return make_run(Path(shutil.copytree(tiny_dataset.path, tmp_path / "dataset")))


@pytest.fixture
def plan(run_file: Path) -> Iterator[Plan]:
    with Plan(load_run(run_file)) as plan:
        yield plan


@pytest.fixture(params=["run file", "folder"])
def source(request: pytest.FixtureRequest, run_file: Path, plan: Plan, tmp_path: Path) -> Path:
    if request.param == "run file":
        return run_file
    materialize(plan, tmp_path / "materialized")
    return tmp_path / "materialized"


class Stale:
    """`os.open` for files of a network mount that is stale for a number of calls, or until told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: float = float("inf")) -> None:
        self.left = failures
        self._open = os.open
        monkeypatch.setattr("tst_data.dataset.folder.os.open", self)

    def __call__(self, name: Any, *arguments: Any, **named: Any) -> int:
        if self.left > 0 and not str(name).endswith(".yaml"):  # the run file is on a local disk
            self.left -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self._open(name, *arguments, **named)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_data_that_cannot_be_read_for_a_while_costs_no_batch(
    source: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, prefetch: int
) -> None:
    with BatchStream(source, rank=0, world_size=1, prefetch=prefetch) as stream:
        with monkeypatch.context() as failing:
            stale = Stale(failing, failures=9)  # each try opens a file, and looks for a restored folder, more than once
            assert next(stream).step == 0
            assert stale.left == 0
        assert 2 <= stream.stats()["retries"] <= 9
        assert rest_is_the_plans(stream, plan)


def test_opening_is_tried_again_too(source: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    Stale(monkeypatch, failures=2)
    with BatchStream(source, rank=0, world_size=1) as stream:
        assert stream.stats()["retries"] == 2
        assert rest_is_the_plans(stream, plan)


def test_it_is_given_up_after_the_timeout(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = BatchStream(source, rank=0, world_size=1, timeout_seconds=0.3, prefetch=0)
    Stale(monkeypatch)
    with stream, pytest.raises(UnavailableError) as caught:
        next(stream)
    one_line(caught.value, f"step 0 of {source}: could not be read within 0.3 s, last error: ", "Stale file handle")
    with pytest.raises(UnavailableError) as caught:
        BatchStream(source, rank=0, world_size=1, timeout_seconds=0.3)
    one_line(caught.value, f"the description of {source}: could not be read within 0.3 s", "check the network mount")


def test_damage_is_an_error_at_once(source: Path, tmp_path: Path) -> None:
    for shard in tmp_path.glob("*/*.mds"):
        shard.unlink()
    with BatchStream(source, rank=0, world_size=1) as stream:
        with pytest.raises(DamagedDataError, match="is missing"):
            next(stream)
        assert stream.stats()["retries"] == 0


def test_closing_ends_the_wait(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = BatchStream(source, rank=0, world_size=1)
    stale = Stale(monkeypatch)
    failed: list[BaseException] = []

    def read() -> None:
        try:
            next(stream)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while not stream.stats()["retries"]:
        time.sleep(0.01)
    stream.close()
    thread.join(60)
    assert "was closed" in str(failed[0])
    assert stale.left == float("inf")
