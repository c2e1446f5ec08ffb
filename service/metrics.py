"""What was served, for Prometheus: counters and histograms over all worker processes.

prometheus-client keeps the values of each process in a memory-mapped file. The folder of these files belongs to one
server: its supervisor makes it and removes it. So counts survive a worker that is replaced, and nothing is left after
the server. If a server is killed together with all its workers, the next server removes the folder. It recognizes it
by the lock file, whose lock the kernel has released.

Labels are path templates and names of served runs, never text from a request, so their number is bounded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from tst_data.durable_files import try_lock
from tst_data.errors import UnavailableError

__all__ = ["CONTENT_TYPE", "FOLDER_VARIABLE", "Metrics", "metrics_folder"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client reads this variable when it is first imported, so it is set before the worker processes start."""

PREFIX = "tst-serve-metrics-"
LOCK = "lock"

FILES = ("counter", "histogram", "gauge_livesum", "gauge_mostrecent")
"""What prometheus-client calls the files of a process, before its process id."""

FILE_BYTES, FILE_BYTES_OF_RUN = 1 << 18, 1 << 13
"""More than the values of a worker take, and those of each run."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@contextmanager
def metrics_folder() -> Iterator[Path]:
    """A folder for the values of one server. It is removed at the end of the block."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # OSError: the folder is not ours, or its server is just starting and has no lock file yet.
        with suppress(OSError), (left / LOCK).open("rb") as lock:
            if try_lock(lock):
                shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (folder / f"{LOCK}.new").open("wb") as lock:
            try_lock(lock)
            Path(lock.name).rename(folder / LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Metrics:
    """The counters, gauges and histograms of one worker process that serves `num_runs` runs."""

    def __init__(self, num_runs: int = 1) -> None:
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder:
            _take_space(Path(folder), FILE_BYTES + FILE_BYTES_OF_RUN * num_runs)
        self._registry = CollectorRegistry()
        shared: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("tst_requests", "HTTP requests.", ("route", "status", "run"), **shared)
        self.request_seconds = Histogram(
            "tst_request_seconds",
            "From a request to the last byte of its response.",
            ("route",),
            buckets=SECONDS,
            **shared,
        )
        self.in_flight = Gauge(
            "tst_requests_in_flight", "Requests whose response is not complete.", multiprocess_mode="livesum", **shared
        )
        self.build_seconds = Histogram(
            "tst_batch_build_seconds", "Time to gather, hash and encode a batch.", ("run",), buckets=SECONDS, **shared
        )
        self.batches = Counter("tst_batches_served", "Batches sent.", ("run",), **shared)
        self.tokens = Counter(
            "tst_tokens_served", "Tokens sent, with the lookahead of each window.", ("run",), **shared
        )
        self.bytes = Counter("tst_bytes_served", "Bytes of batches sent.", ("run",), **shared)
        self.last_step = Gauge(
            "tst_last_step", "Step that was served last.", ("run",), multiprocess_mode="mostrecent", **shared
        )
        self.damaged = Counter("tst_damaged_data", "Requests that found damaged data.", ("run",), **shared)
        self.scrubbed = Counter(
            "tst_scrub_pieces", "Pieces of 1 MiB that were read again in the background.", ("run",), **shared
        )
        self.scrub_damaged = Counter(
            "tst_scrub_damaged_pieces", "Pieces that are missing or not what was written.", ("run",), **shared
        )
        self.scrub_unreadable = Counter(
            "tst_scrub_unreadable_pieces", "Pieces that could not be read now.", ("run",), **shared
        )

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count within this block: where that fails, the request does not.

        The file of a kind of metric is opened at its first use, and a process may then have no descriptor left.
        """
        with suppress(OSError):
            yield

    def exposition(self) -> bytes:
        """The values of all worker processes in the text format of Prometheus."""
        folder = os.environ.get(FOLDER_VARIABLE)
        if not folder:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        registry.register(_Workers(Path(folder)))
        return generate_latest(registry)


def _take_space(folder: Path, num_bytes: int) -> None:
    """Allocate this process's files whole: writing to a part of a mapped file for which a full disk has no space kills
    the process (SIGBUS)."""
    try:
        for name in FILES:
            with (folder / f"{name}_{os.getpid()}.db").open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        raise UnavailableError(
            f"'{folder}': cannot hold the metrics ({error.strerror}); make room there, or set TMPDIR to another folder"
        ) from error


class _Workers:
    """The values of all workers, also of those that have ended.

    An empty file is left out: its worker is just making it, or was killed while it did.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in self._folder.glob("*.db") if path.stat().st_size]
        metrics: Iterable[Metric] = MultiProcessCollector.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
        return metrics
