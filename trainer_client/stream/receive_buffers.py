"""Memory to receive bodies in, used again once nothing refers to what was received.

A fresh 8 MB block costs 2,048 page faults, about as long as copying it; a block that was used before costs none. The
tensor that is handed out keeps its lease alive, and so does everything made from it by slicing; when the last of them
is gone the block goes back. Page-locked memory needs none of this: torch keeps freed blocks of it itself.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch

__all__ = ["ReceiveBuffers"]

MAX_FREE_BLOCKS = 4
"""Blocks kept for the next bodies; the rest is freed. Read-ahead needs about two."""


class ReceiveBuffers:
    """Blocks of memory for bodies of much the same size. Safe to use from several threads."""

    def __init__(self) -> None:
        self._free: deque[bytearray] = deque(maxlen=MAX_FREE_BLOCKS)

    def lease(self, num_bytes: int) -> torch.Tensor:
        """A uint8 tensor (num_bytes,) of undefined content, its own until nothing refers to its memory any more."""
        block = self._fitting(num_bytes)
        lease = np.frombuffer(memoryview(block)[:num_bytes], dtype=np.uint8)
        # The tensor's storage holds `lease` itself; numpy ends a view's chain of bases at an array over foreign memory,
        # so views of it hold it too.
        weakref.finalize(lease, self._free.append, block).atexit = False
        return torch.from_numpy(lease)

    def _fitting(self, num_bytes: int) -> bytearray:
        """A free block that is large enough, and not more than twice as large; else a new one."""
        try:
            block = self._free.popleft()
        except IndexError:
            return bytearray(num_bytes)
        return block if num_bytes <= len(block) <= 2 * num_bytes else bytearray(num_bytes)
