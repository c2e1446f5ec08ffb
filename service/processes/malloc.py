"""Freed memory stays with the process: blocks of megabytes are taken and freed hundreds of times a second.

glibc returns every large block to the kernel as soon as it is freed, and the next batch pays for it with page faults:
on a virtual machine they made building an 8 MB batch take 10 ms instead of 3. The memory of a worker is still bounded:
it keeps as much as it held when it was busiest, and `service.api.admission` limits that.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Make glibc's malloc reuse large blocks in every thread. With another C library this does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)
