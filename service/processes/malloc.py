"""Freed memory stays with the process: batches of megabytes come and go hundreds of times a second.

glibc gives every large block back to the kernel as soon as it is freed, and the next batch pays for it in page
faults: on a virtual machine they made building an 8 MB batch take 10 ms instead of 3. A worker's memory stays
bounded by what it holds at its busiest, which the gate limits.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Tell glibc's malloc to reuse large blocks, whichever thread freed them; nothing happens on other C libraries."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)
