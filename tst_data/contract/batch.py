"""A superposed batch as it is read, sent and received: windows, where each came from, and what they are part of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from tst_data.contract.bags import BagGeometry, Superpose
from tst_data.contract.description import RunDescription

__all__ = ["BatchHeader", "WindowBatch", "checksum"]


@dataclass(frozen=True, kw_only=True)
class BatchHeader:
    """What a batch is part of. `batch_size` counts the whole step; `checksum` is that of the window values."""

    run: str
    fingerprint: str
    order_version: int
    step: int
    phase: int
    bag_size: int
    superpose: Superpose
    sequence_length: int
    batch_size: int
    rank: int
    world_size: int
    checksum: str

    @classmethod
    def of(cls, run: RunDescription, step: int, rank: int, world_size: int, checksum: str) -> BatchHeader:
        """The header of one rank's share of a step. Raises NotFoundError for a step past the end."""
        phase = run.phase(step)
        return cls(
            run=run.name,
            fingerprint=run.fingerprint,
            order_version=run.order_version,
            step=step,
            phase=phase.phase,
            bag_size=phase.bag_size,
            superpose=phase.superpose,
            sequence_length=phase.sequence_length,
            batch_size=phase.batch_size,
            rank=rank,
            world_size=world_size,
            checksum=checksum,
        )

    @property
    def geometry(self) -> BagGeometry:
        """The shape of this batch's windows."""
        return BagGeometry(bag_size=self.bag_size, sequence_length=self.sequence_length, superpose=self.superpose)

    @property
    def num_rows(self) -> int:
        """Windows of this rank's share: b = B / world size."""
        return self.batch_size // self.world_size


@dataclass(frozen=True)
class WindowBatch:
    """One rank's share of one step, in order.

    `windows` (b, A + a) in the shard's dtype, `dataset` (b,) uint16 index into the run's datasets, `first_token` (b,)
    uint64 position of each window in its dataset's token stream.
    """

    header: BatchHeader
    windows: NDArray[np.unsignedinteger]
    dataset: NDArray[np.uint16]
    first_token: NDArray[np.uint64]


def checksum(windows: NDArray[np.unsignedinteger]) -> str:
    """xxh3_64 of the window values' bytes (little-endian, row after row) as 16 lower-case hex digits."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(windows).view(np.uint8).reshape(-1).data)
