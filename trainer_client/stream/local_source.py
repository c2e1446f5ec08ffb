"""Sources that need no server: a run file that is planned and read in this process, and a materialized folder.

Both use the code that a server runs (`tst_data.Plan`) or that made the folder (`tst-data materialize`), so the windows
are those of the URL. There is one reader at a time: gathering from mapped shards is bound by memory, and a second
thread would only share the same bandwidth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from trainer_client.stream.source import Received
from tst_data.contract.batch import WindowBatch
from tst_data.contract.description import RunDescription

__all__ = ["FolderSource", "RunSource"]


class _Batches(Protocol):
    def read_batch(self, step: int, rank: int = 0, world_size: int = 1) -> WindowBatch: ...

    def close(self) -> None: ...


class _LocalSource:
    """Batches that this process reads itself."""

    max_readers = 1
    num_retries = 0

    def __init__(self, location: str, description: RunDescription, batches: _Batches, pin_memory: bool) -> None:
        self.location = location
        self.description = description
        self._batches = batches
        self._pin_memory = pin_memory

    def open_reader(self) -> _LocalReader:
        return _LocalReader(self._batches, self._pin_memory)

    def close(self) -> None:
        self._batches.close()


class _LocalReader:
    """Reads in the thread that calls it."""

    def __init__(self, batches: _Batches, pin_memory: bool) -> None:
        self._batches = batches
        self._pin_memory = pin_memory

    def read(self, step: int, rank: int, world_size: int) -> Received:
        batch = self._batches.read_batch(step, rank, world_size)
        num_bytes = batch.windows.nbytes + batch.dataset.nbytes + batch.first_token.nbytes
        return Received(batch, self._host_tensor(batch), num_bytes)

    def abort(self) -> None:
        """Does nothing: a read here does not wait for another process."""

    def close(self) -> None:
        """Nothing to free: the memory maps belong to the source."""

    def _host_tensor(self, batch: WindowBatch) -> torch.Tensor:
        """The batch's windows (b, A + a): the same memory where it may be written, else a copy."""
        windows = batch.windows if batch.windows.flags.writeable else batch.windows.copy()
        tensor = torch.from_numpy(windows)
        return tensor.pin_memory() if self._pin_memory else tensor


class RunSource(_LocalSource):
    """A run file. Its datasets are read in this process."""

    def __init__(self, path: Path, *, pin_memory: bool) -> None:
        from tst_data.plan.plan import Plan
        from tst_data.run.run_file import load_run

        plan = Plan(load_run(path))
        super().__init__(str(path), plan.describe(), plan, pin_memory)


class FolderSource(_LocalSource):
    """A folder that `tst-data materialize` made."""

    def __init__(self, path: Path, *, pin_memory: bool) -> None:
        from tst_data.materialized.reader import open_materialized

        folder = open_materialized(path)
        super().__init__(str(path), folder.description, folder, pin_memory)
