"""Sharing a step out over ranks: rank `r` of `w` has the rows `r·B/w .. (r+1)·B/w`, in order.

A micro-batch is a rank of a larger world (rank `r·a + i` of `w·a`), so one rule is enough for both.
"""

from __future__ import annotations

from tst_data.contract.description import RunDescription
from tst_data.errors import InvalidInputError

__all__ = ["check_rank", "check_shares", "share_of_rank"]


def check_rank(rank: int, world_size: int) -> None:
    """Raise InvalidInputError unless `rank` is one of the ranks 0 to `world_size` - 1."""
    if world_size < 1:
        raise InvalidInputError(f"world_size: expected at least 1 (given: {world_size})")
    if not 0 <= rank < world_size:
        raise InvalidInputError(f"rank: expected 0 to {world_size - 1} for world_size {world_size} (given: {rank})")


def share_of_rank(batch_size: int, rank: int, world_size: int) -> slice:
    """The rows of one rank. Raises InvalidInputError where the world size does not divide the batch."""
    check_rank(rank, world_size)
    if batch_size % world_size:
        raise InvalidInputError(
            f"world_size: {world_size} does not divide the batch size {batch_size}; choose a divisor of {batch_size}"
        )
    rows = batch_size // world_size
    return slice(rank * rows, (rank + 1) * rows)


def check_shares(run: RunDescription, world_size: int, micro_batches: int) -> None:
    """Raise InvalidInputError if the batch of some phase cannot be shared out: before the run begins."""
    shares = world_size * micro_batches
    for phase in run.phases:
        if phase.batch_size % shares:
            raise InvalidInputError(
                f"world_size: phase {phase.phase} of run '{run.name}' has batch size {phase.batch_size}, which "
                f"world_size {world_size} x micro_batches {micro_batches} = {shares} does not divide; choose numbers "
                "that divide the batch size of every phase"
            )
