"""A superposed batch as it is read, sent and received: windows, where each came from, and what they are part of.

The header repeats what the sender meant to send, so that the receiver can compare each field with what it asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tst_data.contract.bags import BagGeometry, Superpose
from tst_data.contract.description import PhaseDescription, RunDescription

__all__ = ["BatchHeader", "WindowBatch", "checksum"]


@dataclass(frozen=True, kw_only=True)
class BatchHeader:
    """What a batch is part of: one rank's share of one step of a run."""

    run: str
    """Name of the run."""
    fingerprint: str
    """Fingerprint of the run."""
    order_version: int
    """Version of the rules by which windows are drawn."""
    step: int
    """Step of the run, from 0."""
    phase: int
    """Phase of the step, from 0."""
    bag_size: int
    """Tokens read or predicted at one latent position (s)."""
    superpose: Superpose
    """What is superposed."""
    sequence_length: int
    """Latent positions of a sequence (L)."""
    batch_size: int
    """Sequences of the whole step, over all ranks (B)."""
    rank: int
    """Which share of the step this is."""
    world_size: int
    """How many shares the step has."""
    checksum: str
    """`checksum` of the windows of this share."""

    @classmethod
    def of(
        cls, run: RunDescription, phase: PhaseDescription, step: int, rank: int, world_size: int, checksum: str
    ) -> BatchHeader:
        """The header of one rank's share of a step, which belongs to `phase`."""
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
    """One rank's share of one step, in order."""

    header: BatchHeader
    """What the batch is part of."""
    windows: NDArray[np.unsignedinteger[Any]]
    """The tokens, (b, A + a) in the shards' dtype."""
    dataset: NDArray[np.uint16]
    """Dataset of each window, as its index in the run, (b,)."""
    first_token: NDArray[np.uint64]
    """Position of each window's first token in its dataset's token stream, (b,)."""


def checksum(windows: NDArray[np.unsignedinteger[Any]]) -> str:
    """xxh3_64 of the window values' bytes (little-endian, row after row) as 16 lower-case hex digits."""
    state = xxhash.xxh3_64()
    # Releases the interpreter's lock, which a call of xxh3_64_hexdigest does not: 600 MB take 0.05 s or more.
    state.update(np.ascontiguousarray(windows).view(np.uint8).reshape(-1).data)
    return state.hexdigest()
