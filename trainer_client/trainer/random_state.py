"""The random state of each rank, from which dropout draws. It is saved as tensors, so weights_only can load it."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from trainer_client.trainer.process_group import ProcessGroup

__all__ = ["gathered_random_states", "restore_random_state", "seed_rank"]


def seed_rank(seed: int, rank: int, step: int = 0) -> None:
    """Give a rank its own random state, at the start or at the step where it joins."""
    digest = hashlib.blake2b(f"{seed}:{rank}:{step}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


def gathered_random_states(group: ProcessGroup) -> dict[str, Tensor]:
    """The states of all ranks, one row per rank, for a checkpoint."""
    states = {"cpu": torch.stack(group.gather(torch.get_rng_state()))}
    if group.device.type == "cuda":
        states["cuda"] = torch.stack(group.gather(torch.cuda.get_rng_state(group.device)))
    return states


def restore_random_state(states: dict[str, Tensor], group: ProcessGroup, *, seed: int, step: int) -> None:
    """Restore this rank's state from a checkpoint. A rank that is not in the checkpoint gets a new state of its own."""
    if group.rank >= len(states["cpu"]):
        seed_rank(seed, group.rank, step)
        return
    torch.set_rng_state(states["cpu"][group.rank])
    if group.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"][group.rank], group.device)
