"""Sources that need no server: a run file planned and read in this process, and a materialised folder.

Both go through the code that a server would run (`tst_data.Plan`) or has run (`tst-data materialize`), so the
windows are those of the URL. One reader at a time: gathering from mapped shards is memory-bound, a second
thread would only share the same bandwidth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from trainer_client.stream.source import Received, host_tensor
from tst_data.contract.batch import WindowBatch
from tst_data.contract.description import RunDescription

__all__ = ["FolderSource", "RunSource"]


class _Batches(Protocol):
    def read_batch(self, step: int, rank: int = 0, world_size: int = 1) -> WindowBatch: ...

    def close(self) -> None: ...


class _LocalSource:
    """Batches of this machine, read by whoever asks; its own only reader."""

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
    def __init__(self, batches: _Batches, pin_memory: bool) -> None:
        self._batches = batches
        self._pin_memory = pin_memory

    def read(self, step: int, rank: int, world_size: int) -> Received:
        batch = self._batches.read_batch(step, rank, world_size)
        num_bytes = batch.windows.nbytes + batch.dataset.nbytes + batch.first_token.nbytes
        return Received(batch, host_tensor(batch, self._pin_memory), num_bytes)

    def abort(self) -> None:
        """Nothing to cut off: a read waits for no one."""

    def close(self) -> None:
        """Nothing to free: the maps belong to the source."""


class RunSource(_LocalSource):
    """A run file; its datasets are read in this process."""

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
