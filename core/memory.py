"""Whether a net or a set fits into memory, estimated before anything of it is made.

The system ends a process that takes too much, without a word. An estimate that is far beyond what
is available is refused in one line instead.
"""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from purenets.core.base import UserError

TRAINING = 16  # bytes for each param: itself, its gradient, its update and a leaf of the optimizer
DRAWING = 40  # bytes for each param of the largest leaf while it is drawn: integers of 64 bits
GIB = 2**30


def sized(init: Callable, shapes: dict[str, tuple[int, ...]]) -> Callable:
    """Return the init function with the numbers of its params, all and of the largest leaf."""
    sizes = [math.prod(map(int, shape)) for shape in shapes.values()]  # uint8 would overflow
    init.n_params, init.largest_leaf = sum(sizes), max(sizes, default=0)
    return init


def sized_like(init: Callable, parts: list, copies: int = 1) -> Callable:
    """Return the init function of `copies` of all parts, models or layers, with its numbers."""
    init.n_params = copies * sum(getattr(part.init, "n_params", 0) for part in parts)
    init.largest_leaf = max((getattr(p.init, "largest_leaf", 0) for p in parts), default=0)
    return init


def expect_room_for(model: Any, hint: str = "", copies: int = 1) -> None:
    """Raise a UserError if a model's params cannot be trained in the memory that is available.

    Args:
        model: whose `init` knows its sizes; one of elsewhere passes.
        hint: what to make smaller.
        copies: how many of it are trained together.
    """
    n = copies * getattr(model.init, "n_params", 0)
    needed = max(TRAINING * n, DRAWING * getattr(model.init, "largest_leaf", 0) + 4 * n)
    expect_room(needed, f"a net of {_counted(n)} params", hint)


def expect_room(needed: int, what: str, hint: str = "") -> None:
    """Raise a UserError if `needed` bytes are more than are available."""
    room = available()
    if room is not None and needed > room:
        raise UserError(
            f"{what}: needs about {_gib(needed)} GiB of memory, {_gib(room)} GiB are available"
            + (f"; {hint}" if hint else "")
        )


def available() -> int | None:
    """Return the bytes of memory that this process may still take; None where nobody says."""
    rooms = [*_of_system(), *_of_container(), *_of_process()]
    return max(0, min(rooms)) if rooms else None


def _counted(n: int) -> str:
    return f"{n:,}" if n < 10**15 else f"10^{len(str(n)) - 1}"


def _gib(n: int) -> str:
    return f"{n / GIB:,.1f}" if n < 10**21 else f"10^{len(str(n // GIB)) - 1}"


def _of_system() -> Iterator[int]:
    """Yield what the machine has: free memory and swap (Linux), or all its memory."""
    found = {}
    for line in _lines("/proc/meminfo"):
        name, _, value = line.partition(":")
        found[name] = value.split()
    if "MemAvailable" in found:
        names = [name for name in ("MemAvailable", "SwapFree") if name in found]
        yield sum(1024 * int(found[name][0]) for name in names)
        return
    try:
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        yield from _of_windows()


def _of_windows() -> Iterator[int]:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *((name, ctypes.c_uint64) for name in ("total", "free", "a", "page", "b", "c", "d")),
        )

    if hasattr(ctypes, "windll"):
        status = Status(length=ctypes.sizeof(Status))
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            yield status.page


def _of_container() -> Iterator[int]:
    """Yield what a control group leaves: its limit less what is used and cannot be given back."""
    for folder, limit, used, cache in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        (
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        numbers = [next(_lines(f"{folder}/{name}"), "") for name in (limit, used)]
        if all(number.isdecimal() for number in numbers):
            pairs = [line.split() for line in _lines(f"{folder}/memory.stat")]
            given_back = next((int(pair[1]) for pair in pairs if pair[0] == cache), 0)
            yield int(numbers[0]) - int(numbers[1]) + given_back


def _of_process() -> Iterator[int]:
    """Yield what `ulimit -v` leaves."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, AttributeError):  # Windows
        return
    if limit != resource.RLIM_INFINITY:
        pages = next(_lines("/proc/self/statm"), "0").split()[0]
        yield limit - int(pages) * resource.getpagesize()


def _lines(path: str) -> Iterator[str]:
    try:
        yield from Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return
