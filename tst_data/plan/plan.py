"""The plan: (run, step) -> windows -> superposed batch.

There is no queue and no cursor: a batch is a pure function of the run and the step, so any replica gives the same one,
in any order, and a trainer's whole data state is the step number (docs/concepts/pure-batches.md). The arithmetic is in
`tst_data.plan.schedule`; this module joins it with the datasets on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import numpy as np

from tst_data.contract.batch import BatchHeader, WindowBatch, checksum
from tst_data.contract.description import ORDER_VERSION, PhaseDescription, RunDescription
from tst_data.contract.shares import share_of_rank
from tst_data.dataset.reader import Dataset, open_dataset, read_windows
from tst_data.errors import TSTError
from tst_data.plan.dataset_checks import check_datasets
from tst_data.plan.schedule import Schedule, Windows
from tst_data.run.run_file import Run
from tst_data.run.specification import RunSpecification

__all__ = ["Plan"]


class Plan:
    """A run over its open datasets.

    Opening costs O(number of shards). Raises NotFoundError, InvalidInputError or DamagedDataError where a dataset or
    the run cannot work, ForeignDataError where a dataset is not the `revision` that the run asks for; all of them name
    the run file and the key. Safe to share between threads.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.datasets: tuple[Dataset, ...] = ()
        try:
            for number, path in enumerate(run.dataset_paths()):
                with _errors_at(f"{run.place}: 'datasets.{number}.path'"):
                    self.datasets += (open_dataset(path),)
            check_datasets(run, self.datasets)
            with _errors_at(run.place):
                self.schedule = Schedule(run.specification, [dataset.shard_tokens for dataset in self.datasets])
        except BaseException:
            self.close()
            raise
        self.fingerprint = run.specification.fingerprint([dataset.fingerprint for dataset in self.datasets])
        self.dtype = self.datasets[0].dtype
        self._description = self._describe()

    @property
    def specification(self) -> RunSpecification:
        return self.run.specification

    @property
    def num_steps(self) -> int:
        """Steps of all phases together."""
        return self.schedule.num_steps

    @property
    def phases(self) -> tuple[PhaseDescription, ...]:
        return self.schedule.phases

    def phase(self, step: int) -> PhaseDescription:
        """The phase that a step belongs to; NotFoundError past the end."""
        return self.schedule.phase(step)

    def windows(self, step: int, rank: int = 0, world_size: int = 1) -> Windows:
        """The windows of one rank's share of a step, in order.

        Raises NotFoundError for a step past the end, InvalidInputError where the world size does not divide the
        batch.
        """
        return self._windows(self.phase(step), step, rank, world_size)

    def _windows(self, phase: PhaseDescription, step: int, rank: int, world_size: int) -> Windows:
        rows = share_of_rank(phase.batch_size, rank, world_size)
        windows = self.schedule.windows_in(phase, step)
        return Windows(windows.dataset[rows], windows.first_token[rows])

    def read_batch(self, step: int, rank: int = 0, world_size: int = 1) -> WindowBatch:
        """One rank's share of a step with its tokens. Raises as `windows` and `read_windows`."""
        phase = self.phase(step)
        selected = self._windows(phase, step, rank, world_size)
        first_tokens = selected.first_token.astype(np.int64)
        windows = read_windows(self.datasets, selected.dataset, first_tokens, phase.window_length)
        header = BatchHeader.of(self._description, phase, step, rank, world_size, checksum(windows))
        return WindowBatch(header, windows, selected.dataset, selected.first_token)

    def describe(self) -> RunDescription:
        """The run as the service and a materialized folder describe it."""
        return self._description

    def _describe(self) -> RunDescription:
        manifest = self.datasets[0].manifest
        return RunDescription(
            name=self.run.name,
            fingerprint=self.fingerprint,
            order_version=ORDER_VERSION,
            dataset_fingerprints=tuple(dataset.fingerprint for dataset in self.datasets),
            specification=self.specification.canonical(),
            phases=self.phases,
            total_steps=self.num_steps,
            total_tokens=sum(phase.tokens for phase in self.phases),
            dtype="uint16" if self.dtype == np.uint16 else "uint32",
            vocabulary_size=manifest.vocabulary_size,
            end_of_text_id=manifest.end_of_text_id,
        )

    def close(self) -> None:
        """Close the datasets; the plan cannot be used afterwards."""
        for dataset in self.datasets:
            dataset.close()

    def __enter__(self) -> Plan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _errors_at(place: str) -> Iterator[None]:
    """Put the place before the message of an error, and keep its class."""
    try:
        yield
    except TSTError as error:
        raise type(error)(f"{place}: {error}") from None
