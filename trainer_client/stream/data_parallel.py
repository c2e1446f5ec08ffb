"""Data-parallel coordinates: which share of each step a process reads.

Processes of one tensor- or pipeline-parallel group pass the same rank. The defaults found here are right only where
every process is a data-parallel one.
"""

from __future__ import annotations

import os

import torch

from trainer_client.stream.options import whole_number
from tst_data.contract.shares import check_rank
from tst_data.errors import InvalidInputError

__all__ = ["coordinates", "coordinates_of_environment"]


def coordinates(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size as given; else those of `torch.distributed`; else RANK and WORLD_SIZE; else 0 of 1."""
    if rank is None or world_size is None:
        found_rank, found_world_size = _surroundings()
        rank = found_rank if rank is None else rank
        world_size = found_world_size if world_size is None else world_size
    rank, world_size = whole_number("rank", rank), whole_number("world_size", world_size)
    check_rank(rank, world_size)
    return rank, world_size


def _surroundings() -> tuple[int, int]:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return coordinates_of_environment()


def coordinates_of_environment() -> tuple[int, int]:
    """RANK and WORLD_SIZE, which `torchrun` sets; 0 of 1 without them. Raises InvalidInputError for wrong ones."""
    rank, world_size = _environment_number("RANK", 0), _environment_number("WORLD_SIZE", 1)
    check_rank(rank, world_size)
    return rank, world_size


def _environment_number(name: str, default: int) -> int:
    value = os.environ.get(name)
    if value is None or not value.strip():
        return default
    try:
        return int(value)
    except ValueError:
        raise InvalidInputError(f"environment variable {name}: expected a whole number (given: {value!r})") from None
