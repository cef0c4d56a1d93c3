"""What a contestant of a benchmark finds in its process; apart, since that process imports it."""

import ctypes
import os

import numpy as np
import torch


class MallInfo(ctypes.Structure):
    """What glibc's mallinfo2 returns, in bytes; hblkhd is in blocks that are mapped one by one."""

    NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]


def surroundings():
    """Return the function that tells threads and malloc of the process that calls it."""
    return lambda: (torch.get_num_threads(), os.environ.get("THP_MEM_ALLOC_ENABLE"), mapped())


def mapped() -> bool | None:
    """Return whether malloc maps a large array by itself, as in its defaults.

    None where glibc does not tell.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    libc.mallinfo2.restype = MallInfo
    before = libc.mallinfo2().hblkhd
    array = np.empty(64 << 20, np.uint8)
    return libc.mallinfo2().hblkhd - before >= array.nbytes
