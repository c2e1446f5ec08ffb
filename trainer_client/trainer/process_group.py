"""The data-parallel processes that `torchrun` starts, and what they exchange besides gradients.

Gradients go through DistributedDataParallel. What is gathered here (random states, digests, requests to stop) are CPU
tensors over gloo, so no object is pickled and no process waits for a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from trainer_client.stream.data_parallel import coordinates_of_environment
from tst_data.errors import InvalidInputError

__all__ = ["ProcessGroup", "join_process_group"]


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """This process and the others of its training. Every rank must make each call, in the same order."""

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
        """Whether the flag is true on any rank."""
        return (self.world_size > 1 and bool(self.sum(torch.tensor(int(flag))).item())) or flag

    def gather(self, value: Tensor) -> list[Tensor]:
        """A CPU tensor, of the same shape on every rank, from all ranks in order."""
        if self.world_size == 1:
            return [value]
        gathered = [torch.empty_like(value) for _ in range(self.world_size)]
        distributed.all_gather(gathered, value)
        return gathered

    def wait(self) -> None:
        """Wait until every rank has made this call."""
        self.any(False)


@contextmanager
def join_process_group(device: str) -> Iterator[ProcessGroup]:
    """The process group of `torchrun`'s environment, or a single process where that is not set.

    `device` is auto, cpu or cuda. Raises InvalidInputError where cuda is asked for and there is no GPU.
    """
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise InvalidInputError("device: is cuda, but torch finds no GPU here; use device: cpu or device: auto")
    on_gpu = has_gpu and device != "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    place = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place)
    if coordinates_of_environment()[1] == 1:
        yield ProcessGroup(rank=0, world_size=1, device=place)
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield ProcessGroup(rank=distributed.get_rank(), world_size=distributed.get_world_size(), device=place)
    finally:
        distributed.destroy_process_group()
