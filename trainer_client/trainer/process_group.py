"""Data-parallel processes as `torchrun` starts them, and the few words they exchange besides gradients.

Gradients go through DistributedDataParallel. What is gathered here (random states, digests, a wish to stop) are
tensors on the CPU over gloo: no object is pickled, and a GPU is never waited for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from tst_data.errors import InvalidInputError

__all__ = ["Ranks", "joined_ranks"]


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among its peers."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value over all ranks."""
        if self.world_size > 1:
            value = value.clone()
            distributed.all_reduce(value)
            value /= self.world_size
        return value

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a CPU tensor over all ranks."""
        if self.world_size > 1:
            distributed.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return (self.world_size > 1 and bool(self.sum(torch.tensor(int(flag))).item())) or flag

    def gather(self, value: Tensor) -> list[Tensor]:
        """A CPU tensor of one shape from every rank, in order."""
        if self.world_size == 1:
            return [value]
        gathered = [torch.empty_like(value) for _ in range(self.world_size)]
        distributed.all_gather(gathered, value)
        return gathered

    def wait(self) -> None:
        """Until every rank has come here."""
        self.any(False)


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """The process group of `torchrun`'s environment, or a single process without one.

    `device` is auto, cpu or cuda. Raises InvalidInputError for a GPU that is not there.
    """
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise InvalidInputError("device is cuda, but torch finds no GPU here; use device: cpu, or auto")
    on_gpu = has_gpu and device != "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    place = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Ranks(rank=0, world_size=1, device=place)
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield Ranks(rank=distributed.get_rank(), world_size=distributed.get_world_size(), device=place)
    finally:
        distributed.destroy_process_group()
