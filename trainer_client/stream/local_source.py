"""Sources that need no server: a run file that is planned and read in this process, and a materialized folder.

Both use the code that a server runs (`tst_data.Plan`) or that made the folder (`tst-data materialize`), so the windows
are those of the URL. There is one reader at a time: gathering from mapped shards is bound by memory, and a second
thread would only share the same bandwidth.

What a server would report as 503 is tried again here as it is over HTTP: data that cannot be read now (a stale mount,
too many open files), with the same backoff, until the deadline. Damaged data is an error at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from trainer_client.stream.retry import retrying
from trainer_client.stream.source import Received
from tst_data.contract.batch import WindowBatch
from tst_data.contract.description import RunDescription
from tst_data.errors import UnavailableError

__all__ = ["FolderSource", "RunSource"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _Batches(Protocol):
    def read_batch(self, step: int, rank: int = 0, world_size: int = 1) -> WindowBatch: ...

    def close(self) -> None: ...


class _LocalSource:
    """Batches that this process reads itself."""

    max_readers = 1

    def __init__(self, path: Path, *, timeout_seconds: float, pin_memory: bool) -> None:
        self.location = str(path)
        self.num_retries = 0
        self.pin_memory = pin_memory
        self._timeout_seconds = timeout_seconds
        self._stop = threading.Event()
        self.description, self._batches = self.until_readable("the description", lambda: self._open(path))

    def _open(self, path: Path) -> tuple[RunDescription, _Batches]:
        """Open what is at the path."""
        raise NotImplementedError

    def open_reader(self) -> _LocalReader:
        return _LocalReader(self, self._batches)

    def until_readable(self, what: str, read: Callable[[], T]) -> T:
        """The result of `read`, tried again while it raises UnavailableError, until the deadline."""
        attempts = retrying(
            timeout_seconds=self._timeout_seconds,
            stop=self._stop,
            worth_another_try=lambda error: isinstance(error, UnavailableError),
            before_wait=lambda error: self._count_retry(what, error),
        )
        place = f"{what} of {self.location}"
        try:
            result: T = attempts(read)
            return result
        except UnavailableError as last:
            if self._stop.is_set():
                raise UnavailableError(f"{place}: the stream was closed; make a new BatchStream to continue") from None
            raise UnavailableError(
                f"{place}: could not be read within {self._timeout_seconds:g} s, last error: {last}"
            ) from None

    def abort(self) -> None:
        """End every wait for data that cannot be read."""
        self._stop.set()

    def close(self) -> None:
        self.abort()
        self._batches.close()

    def _count_retry(self, what: str, error: BaseException) -> None:
        self.num_retries += 1
        logger.warning("trying again to read %s of %s: %s", what, self.location, error)


class _LocalReader:
    """Reads in the thread that calls it."""

    def __init__(self, source: _LocalSource, batches: _Batches) -> None:
        self._source = source
        self._batches = batches

    def read(self, step: int, rank: int, world_size: int) -> Received:
        batch = self._source.until_readable(f"step {step}", lambda: self._batches.read_batch(step, rank, world_size))
        num_bytes = batch.windows.nbytes + batch.dataset.nbytes + batch.first_token.nbytes
        return Received(batch, self._host_tensor(batch), num_bytes)

    def abort(self) -> None:
        """Cut off a wait for data that cannot be read now. A read itself does not wait for another process."""
        self._source.abort()

    def close(self) -> None:
        """Nothing to free: the memory maps belong to the source."""

    def _host_tensor(self, batch: WindowBatch) -> torch.Tensor:
        """The batch's windows (b, A + a): the same memory where it may be written, else a copy."""
        windows = batch.windows if batch.windows.flags.writeable else batch.windows.copy()
        tensor = torch.from_numpy(windows)
        return tensor.pin_memory() if self._source.pin_memory else tensor


class RunSource(_LocalSource):
    """A run file. Its datasets are read in this process."""

    def _open(self, path: Path) -> tuple[RunDescription, _Batches]:
        from tst_data.plan.plan import Plan
        from tst_data.run.run_file import load_run

        plan = Plan(load_run(path))
        return plan.describe(), plan


class FolderSource(_LocalSource):
    """A folder that `tst-data materialize` made."""

    def _open(self, path: Path) -> tuple[RunDescription, _Batches]:
        from tst_data.materialized.reader import open_materialized

        folder = open_materialized(path)
        return folder.description, folder
