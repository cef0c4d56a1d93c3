"""Reuse of freed memory: a pure function makes its big arrays anew in every step."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
GIB = 1 << 30


def keep_freed_memory() -> bool:
    """Tell malloc to keep freed memory for the next array, and torch to ask for huge pages.

    By default glibc returns freed memory to the system, and the next array must fault every page in
    again, which can take longer than the arithmetic of an optimizer. Results are unchanged. Our
    scripts call it; call it in a script of your own before torch is imported. The process keeps up
    to a GiB that it does not use. `THP_MEM_ALLOC_ENABLE` and `MALLOC_*` in the environment take
    precedence.

    Returns:
        True if malloc could be told, which takes glibc.

    Example:
        >>> from purenets import runs
        >>> told = runs.keep_freed_memory()

    Source:
        mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    os.environ.setdefault(
        "THP_MEM_ALLOC_ENABLE", "1"
    )  # read by torch's CPU allocator at its first use
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, GIB) and mallopt(M_TRIM_THRESHOLD, GIB))
