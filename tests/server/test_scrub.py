"""The background check of all pieces: it reads each once, finds decay, and lets no worker serve it.

python -m pytest tests/server/test_scrub.py
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.metrics import FOLDER_VARIABLE, Metrics
from service.registry import Registry
from service.scrub import NOTICES_NAME, Scrub
from tests.conftest import MakeRun
from tests.server.conftest import BATCHES
from tests.support.serving import check_problem, eventually, refused, running
from tst_data import Dataset, open_dataset
from tst_data.dataset.disk_check import DiskCheck
from tst_data.dataset.writer import write_dataset
from tst_data.errors import DamagedDataError

OFTEN = 3600.0


@pytest.fixture
def folder(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset.path, tmp_path / "dataset"))


@pytest.fixture
def registry(folder: Path, make_run: MakeRun) -> Iterator[Registry]:
    registry = Registry.open([make_run(folder)])
    yield registry
    registry.close()


@pytest.fixture
def decay_is_invisible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes change and the times of the file do not, as when a disk decays."""

    def identity_of(status: os.stat_result) -> tuple[int, ...]:
        return status.st_dev, status.st_ino, status.st_size, 0, 0

    monkeypatch.setattr("tst_data.dataset.folder.identity_of", identity_of)
    monkeypatch.setattr("tst_data.dataset.shard_reader.identity_of", identity_of)


def decay(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-10, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
        file.flush()
        os.fsync(file.fileno())


def dataset_of(registry: Registry) -> Dataset:
    return registry.get("test").plan.datasets[0]


def value(metrics: Metrics, name: str) -> float:
    lines = metrics.exposition().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f'{name}_total{{run="test"}} ')).split()[1])


@pytest.mark.parametrize("workers", [1, 3])
def test_all_workers_together_read_each_piece_once_in_another_order_each_time(
    tmp_path: Path, make_run: MakeRun, workers: int
) -> None:
    tokens = np.random.default_rng(1).integers(0, 65000, 3_500_000)
    write_dataset(
        tmp_path / "data", [tokens], vocabulary_size=65536, end_of_text_id=65535, shard_tokens=4096 * 300
    ).close()
    registry = Registry.open([make_run(tmp_path / "data", name="one"), make_run(tmp_path / "data", name="two", seed=2)])
    [dataset] = {run.plan.datasets[0].path: run.plan.datasets[0] for run in registry}.values()
    walks = []
    for _ in range(2):
        pieces = []
        for worker in range(workers):
            scrub = Scrub(registry, Metrics(), share_per_hour=1, worker=worker, workers=workers)
            share = sum(
                (piece - worker + shard) % workers == 0
                for shard in range(dataset.num_shards)
                for piece in range(len(dataset.pieces(shard)))
            )
            pieces += [(piece.shard, piece.piece) for piece in islice(scrub._walk(), share)]
        assert sorted(pieces) == [
            (shard, piece) for shard in range(dataset.num_shards) for piece in range(len(dataset.pieces(shard)))
        ]
        assert len(pieces) == dataset.num_pieces
        walks.append(pieces)
    assert dataset.num_pieces == 9
    registry.close()


def test_it_reads_in_the_background_and_stops(registry: Registry) -> None:
    metrics = Metrics()
    scrub = Scrub(registry, metrics, share_per_hour=OFTEN)
    scrub.start()
    eventually(lambda: value(metrics, "tst_scrub_pieces") > dataset_of(registry).num_pieces)
    scrub.close()
    assert "scrub" not in [thread.name for thread in threading.enumerate()]
    assert value(metrics, "tst_scrub_damaged_pieces") == value(metrics, "tst_scrub_unreadable_pieces") == 0


def test_a_share_of_0_reads_nothing(registry: Registry) -> None:
    scrub = Scrub(registry, Metrics(), share_per_hour=0)
    scrub.start()
    assert "scrub" not in [thread.name for thread in threading.enumerate()]
    scrub.close()


@pytest.mark.usefixtures("decay_is_invisible")
def test_decay_after_the_first_use_is_found_and_then_refused(
    registry: Registry, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = dataset_of(registry)
    before = dataset.read(0, dataset.num_tokens)
    decay(folder / "shard.00003.mds")
    assert not np.array_equal(dataset.read(0, dataset.num_tokens), before), "nothing else notices it"
    metrics = Metrics()
    scrub = Scrub(registry, metrics, share_per_hour=OFTEN)
    scrub.start()
    eventually(lambda: value(metrics, "tst_scrub_damaged_pieces") >= 1)
    scrub.close()
    with pytest.raises(DamagedDataError, match=r"shard\.00003\.mds: piece 0 .* is not what was written"):
        dataset.read(0, dataset.num_tokens)
    assert "shard.00003.mds: piece 0" in capfd.readouterr().out


@pytest.mark.usefixtures("decay_is_invisible")
def test_the_other_workers_learn_of_a_damaged_piece(
    folder: Path, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(folder)
    registries = [Registry.open([run]) for _ in range(2)]
    (tmp_path / "server").mkdir()
    with monkeypatch.context() as server:
        server.setenv(FOLDER_VARIABLE, str(tmp_path / "server"))
        finder, reader = (
            Scrub(registry, Metrics(), share_per_hour=1, worker=worker, workers=2)
            for worker, registry in enumerate(registries)
        )
    mine, theirs = (dataset_of(registry) for registry in registries)
    for dataset in (mine, theirs):
        dataset.read(0, dataset.num_tokens)
    decay(folder / "shard.00004.mds")
    for piece in islice(finder._walk(), 8):
        finder._check(piece)
    theirs.read(0, theirs.num_tokens)
    for _ in range(2):
        reader._read_notices()
    for dataset in (mine, theirs):
        with pytest.raises(DamagedDataError, match=r"shard\.00004\.mds: piece 0 "):
            dataset.read(0, dataset.num_tokens)
    for registry in registries:
        registry.close()


def test_what_cannot_be_read_is_counted_and_not_taken_for_damage(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    metrics = Metrics()
    scrub = Scrub(registry, metrics, share_per_hour=OFTEN)
    scrub.start()
    with monkeypatch.context() as failing:
        failing.setattr("tst_data.dataset.disk_check.os.preadv", fail)
        eventually(lambda: value(metrics, "tst_scrub_unreadable_pieces") >= 2)
    before = value(metrics, "tst_scrub_pieces")
    eventually(lambda: value(metrics, "tst_scrub_pieces") > before + 2)
    scrub.close()
    assert value(metrics, "tst_scrub_damaged_pieces") == 0
    dataset_of(registry).read(0, 100)


@pytest.mark.parametrize("direct", [True, False])
def test_a_piece_is_read_past_the_page_cache_or_from_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    if not direct:
        monkeypatch.setattr("tst_data.dataset.disk_check._DIRECT", 0)
    with open_dataset(folder) as dataset:
        disk = DiskCheck()
        for shard in range(dataset.num_shards):
            dataset.check_on_disk(disk, shard, 0, int(dataset.pieces(shard)[0]))
        decay(folder / "shard.00002.mds")
        with pytest.raises(DamagedDataError, match=r"shard\.00002\.mds: piece 0 "):
            dataset.check_on_disk(disk, 2, 0, int(dataset.pieces(2)[0]))
        assert disk.num_read == dataset.num_shards + 1


@pytest.mark.slow
def test_a_server_counts_what_it_scrubs_and_refuses_what_is_damaged(
    folder: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(folder)
    decay(folder / "shard.00005.mds")
    with running(run, "--workers", 2, "--scrub-per-hour", OFTEN) as server:

        def metric(name: str) -> float:
            lines = server.ask("/metrics").body.decode().splitlines()
            return sum(float(line.split()[1]) for line in lines if line.startswith(f'{name}_total{{run="test"}}'))

        eventually(lambda: metric("tst_scrub_damaged_pieces") >= 1)
        assert metric("tst_scrub_pieces") >= 1
        statuses = {}
        for step in range(5):
            response = server.ask(f"{BATCHES}/{step}")
            statuses[step] = response.status
            if response.status != 200:
                assert "shard.00005.mds" in check_problem(response, 500, f"{BATCHES}/{step}")["detail"]
        assert set(statuses.values()) <= {200, 500}


@pytest.mark.slow
@pytest.mark.parametrize(("share", "words"), [("nan", "a finite number"), ("4000", "at most 3600")])
def test_a_share_that_cannot_be_is_one_line(folder: Path, make_run: MakeRun, share: str, words: str) -> None:
    outcome = refused(make_run(folder), "--scrub-per-hour", share)
    assert outcome.returncode == 2
    [line] = outcome.stderr.splitlines()
    assert line.startswith("error: --scrub-per-hour (or TST_SERVE_SCRUB_PER_HOUR): expected ")
    assert words in line


def test_a_worker_without_a_piece_waits_and_stops(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are fewer pieces than workers."""
    write_dataset(tmp_path / "data", [[1, 2, 3] * 1000], vocabulary_size=256, end_of_text_id=255).close()
    registry = Registry.open([make_run(tmp_path / "data", batch_size=2, sequence_length=8)])
    workers = [Scrub(registry, Metrics(), share_per_hour=OFTEN, worker=worker, workers=9) for worker in range(9)]
    [idle, *_] = (scrub for scrub in workers if not list(scrub._walk()))
    walk, num_walks = idle._walk, 0

    def counted() -> Iterator[Any]:
        nonlocal num_walks
        num_walks += 1
        return walk()

    monkeypatch.setattr(idle, "_walk", counted)
    idle.start()
    time.sleep(1.5)
    assert 1 <= num_walks <= 3
    idle.close()
    assert not idle._thread.is_alive()
    registry.close()


def test_notices_that_are_torn_are_skipped(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is written later in full counts then; what a full disk cut off is no notice, whatever it holds."""
    with monkeypatch.context() as server:
        server.setenv(FOLDER_VARIABLE, str(tmp_path))
        scrub = Scrub(registry, Metrics(), share_per_hour=1)
    dataset, notices = dataset_of(registry), tmp_path / NOTICES_NAME
    distrusted: list[tuple[int, int]] = []
    monkeypatch.setattr(dataset, "distrust", lambda shard, piece: distrusted.append((shard, piece)))
    name = dataset.fingerprint.encode()

    def after(data: bytes) -> list[tuple[int, int]]:
        with notices.open("ab") as file:
            file.write(data)
        distrusted.clear()
        scrub._read_notices()
        return distrusted

    assert scrub._notices is not None
    assert after(b"") == []
    assert after(name + b" 3 ") == []
    assert after(b"0\n") == [(3, 0)]
    assert after(name + b" 4") == []
    scrub._notices.write(dataset.fingerprint, 5, 0)
    assert after(b"") == [(5, 0)]
    assert after(b"\n\xff\xfe x y\n" + name + b"\n1 2 3 4\n" + name + b" 0 -1\n") == []


def test_a_notice_of_a_piece_that_does_not_exist_changes_nothing(registry: Registry) -> None:
    dataset = dataset_of(registry)
    dataset.read(0, 100)
    for shard, piece in ((0, 1), (0, 10**30), (10**30, 0), (dataset.num_shards, 0), (-1, 0), (0, -1)):
        dataset.distrust(shard, piece)
    dataset.read(0, dataset.num_tokens)


def test_a_missing_table_is_reported_once_in_a_pass_and_when_it_is_due(registry: Registry, folder: Path) -> None:
    (folder / "shards.parquet").unlink()
    metrics = Metrics()
    slow = Scrub(registry, metrics, share_per_hour=0.01)
    slow.start()
    time.sleep(1.2)
    slow.close()
    assert value(metrics, "tst_scrub_damaged_pieces") == value(metrics, "tst_scrub_pieces") == 0
    quick = Scrub(registry, metrics, share_per_hour=OFTEN)
    passes = 0
    walk = quick._walk

    def counted() -> Iterator[Any]:
        nonlocal passes
        passes += 1
        return walk()

    quick._walk = counted  # type: ignore[method-assign]
    quick.start()
    eventually(lambda: passes > 2)
    quick.close()
    assert passes - 1 <= value(metrics, "tst_scrub_damaged_pieces") <= passes
    assert value(metrics, "tst_scrub_pieces") == 0


def test_only_pieces_that_were_read_are_counted_as_read(registry: Registry, folder: Path) -> None:
    metrics = Metrics()
    scrub = Scrub(registry, metrics, share_per_hour=1)
    pieces = list(scrub._walk())
    dataset_of(registry).pieces(0)
    (folder / "shard.00001.mds").unlink()
    decay(folder / "shard.00002.mds")
    for piece in pieces:
        scrub._check(piece)
    assert value(metrics, "tst_scrub_damaged_pieces") == 2
    assert value(metrics, "tst_scrub_pieces") == len(pieces) - 1
