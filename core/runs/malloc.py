"""Reuse of freed memory: a pure function makes its big arrays anew in every step."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
GIB = 1 << 30


def keep_freed_memory() -> bool:
    """Tell malloc to keep freed memory for the next array, and torch to ask for huge pages.

    By default glibc returns each array above a few MiB to the system, and its next owner must fault
    every page in again, which takes longer than the arithmetic of an optimizer. Results are
    unchanged. Call it before torch is imported; `THP_MEM_ALLOC_ENABLE` and `MALLOC_*` in the
    environment take precedence.

    Returns:
        True if malloc could be told, which takes glibc.
    """
    os.environ.setdefault(
        "THP_MEM_ALLOC_ENABLE", "1"
    )  # read by torch's CPU allocator at its first use
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, GIB) and mallopt(M_TRIM_THRESHOLD, GIB))
