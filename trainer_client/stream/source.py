"""What a stream needs of the place its windows come from: the same for a URL, a run file and a materialized folder.

A source knows the run's description and opens readers. A reader turns (step, rank, world size) into windows. Each
background thread has its own reader (over HTTP its own connection), so readers need no locks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from tst_data.contract.batch import WindowBatch
    from tst_data.contract.description import RunDescription

__all__ = ["Reader", "Received", "Source"]


@dataclass(frozen=True)
class Received:
    """Windows as they came: the verified batch, its windows as a tensor in host memory, and the bytes transferred."""

    batch: WindowBatch
    windows: torch.Tensor
    num_bytes: int


class Reader(Protocol):
    """Reads one batch after another. One thread uses it; only `abort` may be called from another."""

    def read(self, step: int, rank: int, world_size: int) -> Received:
        """The verified windows of one rank of a step. Raises a TSTError that names step and source."""
        ...

    def abort(self) -> None:
        """Cut off a read that another thread is waiting for."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """A run that can be read."""

    location: str
    """Its name in messages and logs. It contains no secret."""

    description: RunDescription

    max_readers: int
    """How many readers may work at the same time."""

    @property
    def num_retries(self) -> int:
        """Reads that were tried again so far, over all readers."""
        ...

    def open_reader(self) -> Reader: ...

    def close(self) -> None: ...
