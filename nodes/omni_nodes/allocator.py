"""The C library's allocator, told to keep what a step frees.

By default glibc gives large freed tensors back to the kernel, and the next step pays for every page again: a fifth of
the time of a packed evaluation on a CPU. The process then holds the most it ever needed at once, and no more.
"""

from __future__ import annotations

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_MMAP_THRESHOLD = 32 << 20  # half a heap of glibc's; it takes no more
NEVER = (1 << 31) - 1


@cache
def keep_freed_memory() -> bool:
    """Once per process. False, and nothing done, where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
