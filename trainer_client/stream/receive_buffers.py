"""Memory that receives bodies. It is used again when nothing refers to the received data any more.

A new block of 8 MB costs 2,048 page faults, about as much time as copying it; a block that was used before costs none.
The tensor that is handed out keeps its lease alive, and so does every slice of it. When the last of them is gone, the
block is free again. Page-locked memory does not need this: torch itself keeps freed blocks of it.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch

__all__ = ["ReceiveBuffers"]

MAX_FREE_BLOCKS = 4
"""How many free blocks are kept for the next bodies; others are freed. Read-ahead needs about two."""


class ReceiveBuffers:
    """Blocks of memory for bodies of similar size. Several threads may use it."""

    def __init__(self) -> None:
        self._free: deque[bytearray] = deque(maxlen=MAX_FREE_BLOCKS)

    def lease(self, num_bytes: int) -> torch.Tensor:
        """A uint8 tensor (num_bytes,) of undefined content. Nobody else gets its memory while it is referred to."""
        block = self._fitting(num_bytes)
        lease = np.frombuffer(memoryview(block)[:num_bytes], dtype=np.uint8)
        # The tensor's storage refers to `lease`. Views do so too: numpy follows a view's bases only as far as an array
        # over foreign memory, which `lease` is.
        weakref.finalize(lease, self._free.append, block).atexit = False
        return torch.from_numpy(lease)

    def _fitting(self, num_bytes: int) -> bytearray:
        """A free block that is large enough and at most twice as large, else a new one."""
        try:
            block = self._free.popleft()
        except IndexError:
            return bytearray(num_bytes)
        return block if num_bytes <= len(block) <= 2 * num_bytes else bytearray(num_bytes)
