"""Big arrays are made anew in every step of a pure function: let their memory be reused, not
fetched anew.
"""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
GIB = 1 << 30


def keep_freed_memory() -> bool:
    """Tell malloc to keep what was freed for the next array, and torch to ask for huge pages;
    whether malloc could be told (glibc can).

    By default glibc hands each array above a few MiB back to the system and has its next owner
    fault every page in again, which takes longer than the arithmetic of an optimizer. Nothing is
    computed otherwise. Call it before torch is imported; `THP_MEM_ALLOC_ENABLE` and `MALLOC_*` of
    the environment have precedence.
    """
    os.environ.setdefault(
        "THP_MEM_ALLOC_ENABLE", "1"
    )  # read by torch's CPU allocator at its first use
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, GIB) and mallopt(M_TRIM_THRESHOLD, GIB))
