"""The random state of a rank: what dropout draws from. Tensors in, tensors out, so nothing is pickled."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from trainer_client.trainer.process_group import Ranks

__all__ = ["gathered_random_states", "restore_random_state", "seed_rank"]


def seed_rank(seed: int, rank: int, step: int = 0) -> None:
    """A random state of its own for a rank that starts, or joins, at a step."""
    digest = hashlib.blake2b(f"{seed}:{rank}:{step}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


def gathered_random_states(ranks: Ranks) -> dict[str, Tensor]:
    """The states of all ranks, one row each, for a checkpoint."""
    states = {"cpu": torch.stack(ranks.gather(torch.get_rng_state()))}
    if ranks.device.type == "cuda":
        states["cuda"] = torch.stack(ranks.gather(torch.cuda.get_rng_state(ranks.device)))
    return states


def restore_random_state(states: dict[str, Tensor], ranks: Ranks, *, seed: int, step: int) -> None:
    """This rank's state of a checkpoint; a rank that was not there then gets one of its own."""
    if ranks.rank >= len(states["cpu"]):
        seed_rank(seed, ranks.rank, step)
        return
    torch.set_rng_state(states["cpu"][ranks.rank])
    if ranks.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"][ranks.rank], ranks.device)
