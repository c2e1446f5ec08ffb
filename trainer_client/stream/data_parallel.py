"""Data-parallel coordinates: which share of each step a process reads.

Peers of a tensor- or pipeline-parallel group pass the same rank; what is found here by default is right only
where every process is a data-parallel one.
"""

from __future__ import annotations

import os
from numbers import Integral

import torch

from tst_data.contract.shares import check_rank
from tst_data.errors import InvalidInputError

__all__ = ["coordinates"]


def coordinates(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size: as given, else of `torch.distributed`, else of RANK and WORLD_SIZE, else 0 of 1."""
    if rank is None or world_size is None:
        found_rank, found_world_size = _surroundings()
        rank = found_rank if rank is None else rank
        world_size = found_world_size if world_size is None else world_size
    for name, value in (("rank", rank), ("world_size", world_size)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise InvalidInputError(f"{name} is {value!r}; expected a whole number")
    check_rank(int(rank), int(world_size))
    return int(rank), int(world_size)


def _surroundings() -> tuple[int, int]:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return _environment_number("RANK", 0), _environment_number("WORLD_SIZE", 1)


def _environment_number(name: str, default: int) -> int:
    text = os.environ.get(name)
    if text is None or not text.strip():
        return default
    try:
        return int(text)
    except ValueError:
        raise InvalidInputError(f"environment variable {name} is {text!r}; expected a whole number") from None
