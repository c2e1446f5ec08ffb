"""Scrub: read all pieces again, slowly and in the background, to find data that decayed after it was verified.

Serving verifies a piece when it is first read. Whatever happens to the disk later is found here, at a share of all
pieces in an hour: 0.01 reads everything once in 100 hours, which for 4 TB is 11 MB a second. Shards come in random
order. Of each shard a worker process takes every m-th piece, where m is the number of workers, so the work is done once
for a server; a worker that is replaced begins with another order.

A damaged piece is logged and counted, and verified again before its next use, so requests for it get a problem and no
tokens. The other workers learn of it from a file in the server's own folder, which they read every second.

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
    disk: DiskCheck


class _Piece(NamedTuple):
    of: _Scrubbed
    shard: int
    piece: int
    expected: int


class Scrub:
    """The background reader of one worker process, number `worker` of `workers`."""

    def __init__(
        self, registry: Registry, metrics: Metrics, *, share_per_hour: float, worker: int = 0, workers: int = 1
    ) -> None:
        self._metrics = metrics
        self._worker, self._workers = worker, workers
        self._all = [(run.name, dataset) for run in registry for dataset in run.plan.datasets]
        distinct = {dataset.path: (run, dataset) for run, dataset in reversed(self._all)}
        self._scrubbed = [_Scrubbed(run, dataset, dataset.disk_check()) for run, dataset in distinct.values()]
        pieces_per_hour = share_per_hour * sum(of.dataset.num_pieces for of in self._scrubbed)
        self._seconds = 3600 * workers / pieces_per_hour if pieces_per_hour else float("inf")
        folder = os.environ.get(FOLDER_VARIABLE)
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
        for piece in self._walk():
            while (left := due - time.monotonic()) > 0:
                if self._stop.wait(min(left, POLL_SECONDS)):
                    return
                self._read_notices()
            if self._stop.is_set():
                return
            self._check(piece)
            due = max(due + self._seconds, time.monotonic())  # never faster, to catch up after a slow read

    def _walk(self) -> Iterator[_Piece]:
        """This worker's pieces, for ever: shards in random order, another one each time."""
        ends = np.cumsum([of.dataset.num_shards for of in self._scrubbed])
        while True:
            for index in np.random.default_rng().permutation(int(ends[-1])):
                number = int(np.searchsorted(ends, index, side="right"))
                of = self._scrubbed[number]
                shard = int(index - ends[number]) + of.dataset.num_shards
                try:
                    hashes = of.dataset.pieces(shard).tolist()
                except TSTError as error:
                    self._report(of, error)
                    if self._stop.wait(POLL_SECONDS):
                        return
                    continue
                first = (self._worker - shard) % self._workers  # small shards: not always the same worker
                for piece in range(first, len(hashes), self._workers):
                    yield _Piece(of, shard, piece, hashes[piece])

    def _check(self, piece: _Piece) -> None:
        try:
            piece.of.disk.check(piece.shard, piece.piece, piece.expected)
        except TSTError as error:
            if isinstance(error, DamagedDataError):
                fingerprint = piece.of.dataset.fingerprint
                self._distrust(fingerprint, piece.shard, piece.piece)
                if self._notices is not None:
                    self._notices.write(fingerprint, piece.shard, piece.piece)
            self._report(piece.of, error)
        except Exception:
            logger().error("scrub failed", run=piece.of.run, exc_info=True)
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
            with self._path.open("ab", buffering=0) as file:  # appended in one write: lines never mix
                file.write(f"{fingerprint} {shard} {piece}\n".encode())
        except OSError as error:
            logger().error("scrub cannot tell the other workers", detail=str(error))

    def read(self) -> Iterator[tuple[str, int, int]]:
        """The lines since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                lines = file.read()
        except OSError:  # nothing was found yet
            return
        self._read_bytes += len(lines)
        for line in lines.decode().splitlines():
            fingerprint, shard, piece = line.split()
            yield fingerprint, int(shard), int(piece)
