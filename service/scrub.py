"""Scrub: read all pieces again, slowly and in the background, to find data that decayed after it was verified.

Serving verifies a piece when it is first read. What decays on the disk later is found here, at a share of all
pieces in an hour: 0.01 reads everything once in 100 hours, which for 4 TB is 11 MB a second. Shards come in random
order. Of each shard a worker process takes every m-th piece, where m is the number of workers, so the work is done once
for a server; a worker that is replaced begins with another order.

A damaged piece is logged and counted, and verified again before its next use, so requests for it get a problem and no
tokens. The other workers learn of it from a file in the server's own folder, which they read every second, also a
worker that has no piece to read because there are fewer pieces than workers.

It has one thread, which mostly sleeps. Reading and hashing release the interpreter's lock.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.logs import logger
from service.metrics import FOLDER_VARIABLE, Metrics
from service.registry import Registry
from tst_data.dataset.disk_check import DiskCheck
from tst_data.dataset.reader import Dataset
from tst_data.errors import DamagedDataError, TSTError

__all__ = ["Scrub"]

NOTICES_NAME = "damaged-pieces"
POLL_SECONDS = 1.0
JOIN_SECONDS = 5.0


class _Scrubbed(NamedTuple):
    """A dataset, and the first run that uses it: its name is the label in the metrics."""

    run: str
    dataset: Dataset


class _Piece(NamedTuple):
    of: _Scrubbed
    shard: int
    piece: int


class Scrub:
    """The background reader of one worker process, number `worker` of `workers`."""

    def __init__(
        self, registry: Registry, metrics: Metrics, *, share_per_hour: float, worker: int = 0, workers: int = 1
    ) -> None:
        self._metrics = metrics
        self._worker, self._workers = worker, workers
        self._all = [(run.name, dataset) for run in registry for dataset in run.plan.datasets]
        distinct = {dataset.path: (run, dataset) for run, dataset in reversed(self._all)}
        self._scrubbed = [_Scrubbed(run, dataset) for run, dataset in distinct.values()]
        pieces_per_hour = share_per_hour * sum(of.dataset.num_pieces for of in self._scrubbed)
        self._seconds = 3600 * workers / pieces_per_hour if pieces_per_hour else float("inf")
        self._disk = DiskCheck()
        self._without_table: set[Path] = set()
        """Datasets whose table could not be read in this pass over all pieces."""
        folder = os.environ.get(FOLDER_VARIABLE)
        self._next_notices = 0.0
        self._notices = _Notices(Path(folder) / NOTICES_NAME) if folder else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="scrub", daemon=True)

    def start(self) -> None:
        """Begin to read, unless the share is 0."""
        if self._seconds < float("inf"):
            for run in {of.run for of in self._scrubbed}:
                for counter in (self._metrics.scrubbed, self._metrics.scrub_damaged, self._metrics.scrub_unreadable):
                    counter.labels(run)  # 0 from the start on, so that an alert can see the first one
            self._thread.start()

    def close(self) -> None:
        """Stop after the piece that is being read."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def _work(self) -> None:
        due = time.monotonic() + self._seconds * float(np.random.default_rng().random())
        while not self._stop.is_set():
            has_pieces = False
            self._without_table.clear()
            for piece in self._walk():
                if not self._wait(due):
                    return
                self._check(piece)
                has_pieces = True
                due = max(due + self._seconds, time.monotonic())  # never faster, to catch up after a slow read
            if not has_pieces:  # fewer pieces than workers: this one only learns of what the others find
                self._wait(time.monotonic() + POLL_SECONDS)

    def _wait(self, due: float) -> bool:
        """Wait until then, and read the notices every second -> False if this is to stop."""
        while True:
            now = time.monotonic()
            if now >= self._next_notices:
                self._read_notices()
                self._next_notices = now + POLL_SECONDS
            if self._stop.wait(max(0.0, min(due, self._next_notices) - now)):
                return False
            if time.monotonic() >= due:
                return True

    def _walk(self) -> Iterator[_Piece]:
        """This worker's pieces, each once: shards in random order, another one each time."""
        ends = np.cumsum([of.dataset.num_shards for of in self._scrubbed])
        for index in np.random.default_rng().permutation(int(ends[-1])):
            number = int(np.searchsorted(ends, index, side="right"))
            of = self._scrubbed[number]
            shard = int(index - ends[number]) + of.dataset.num_shards
            first = (self._worker - shard) % self._workers  # small shards: not always the same worker
            for piece in range(first, int(of.dataset.shard_pieces[shard]), self._workers):
                yield _Piece(of, shard, piece)

    def _check(self, piece: _Piece) -> None:
        try:
            expected = self._expected(piece)
            if expected is not None:
                self._read(piece, expected)
        except Exception:
            logger().error("scrub failed", run=piece.of.run, exc_info=True)

    def _expected(self, piece: _Piece) -> int | None:
        """The piece's hash; None where the table cannot be read, which is reported once for all of its pieces."""
        try:
            return int(piece.of.dataset.pieces(piece.shard)[piece.piece])
        except TSTError as error:
            if piece.of.dataset.path not in self._without_table:
                self._without_table.add(piece.of.dataset.path)
                self._report(piece.of, error)
            return None

    def _read(self, piece: _Piece, expected: int) -> None:
        before = self._disk.num_read
        try:
            piece.of.dataset.check_on_disk(self._disk, piece.shard, piece.piece, expected)
        except TSTError as error:
            if isinstance(error, DamagedDataError):
                fingerprint = piece.of.dataset.fingerprint
                self._distrust(fingerprint, piece.shard, piece.piece)
                if self._notices is not None:
                    self._notices.write(fingerprint, piece.shard, piece.piece)
            self._report(piece.of, error)
        if self._disk.num_read > before:
            self._metrics.scrubbed.labels(piece.of.run).inc()

    def _report(self, of: _Scrubbed, error: TSTError) -> None:
        damaged = isinstance(error, DamagedDataError)
        (self._metrics.scrub_damaged if damaged else self._metrics.scrub_unreadable).labels(of.run).inc()
        logger().error(f"scrub found {'damaged' if damaged else 'unreadable'} data", run=of.run, detail=str(error))

    def _read_notices(self) -> None:
        for fingerprint, shard, piece in self._notices.read() if self._notices is not None else []:
            self._distrust(fingerprint, shard, piece)

    def _distrust(self, fingerprint: str, shard: int, piece: int) -> None:
        """Verify the piece again before its next use, in every dataset that has it."""
        for _, dataset in self._all:
            if dataset.fingerprint == fingerprint:
                dataset.distrust(shard, piece)


class _Notices:
    """A file of the server in which its workers tell each other of damaged pieces, one line for each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0

    def write(self, fingerprint: str, shard: int, piece: int) -> None:
        try:
            # Appended in one write: lines never mix. The first line feed ends what a full disk left of an earlier one.
            with self._path.open("ab", buffering=0) as file:
                file.write(f"\n{fingerprint} {shard} {piece}\n".encode())
        except OSError as error:
            logger().error("scrub cannot tell the other workers", detail=str(error))

    def read(self) -> Iterator[tuple[str, int, int]]:
        """The lines since the last call. What is not a whole line is skipped."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                data = file.read()
        except OSError:  # nothing was found yet
            return
        whole = data[: data.rfind(b"\n") + 1]  # a line that is just being written is read next time
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            words = line.split()
            if len(words) == 3 and len(line) < 200 and words[1].isdigit() and words[2].isdigit():
                yield words[0].decode(errors="replace"), int(words[1]), int(words[2])
