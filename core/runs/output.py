"""What a script prints: no terminal, pipe or full disk that takes it can end a training."""

import io
import os
import sys
from typing import Any


class _Tolerant(io.FileIO):
    """A file descriptor that takes all that is written, and remembers what it could not write."""

    failed: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            done = super().write(content)
        except OSError as error:
            self.failed = self.failed or error
            done = None
        # a part may be written, of a pipe that does not block: the rest is lost, not waited for
        return len(content) if done is None or self.failed else done


def tolerate() -> None:
    """Let `sys.stdout` and `sys.stderr` take whatever is printed.

    Characters that their encoding lacks are escaped, as `\\xb1`. A stream that was closed when the
    process began goes nowhere, and its descriptor is taken, so that no file gets its number. Only
    the streams of the process itself are changed, not those that stand in for them (in a notebook,
    in a test).
    """
    _open_descriptors()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _stream(number, stream))


def failure() -> OSError | None:
    """Return the first error of `sys.stdout`, None if all was written; what is left is flushed."""
    stream = sys.stdout
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    if not isinstance(raw, _Tolerant):
        return None
    stream.flush()
    return raw.failed


def _stream(number: int, before: io.TextIOWrapper | None) -> io.TextIOWrapper:
    if before is not None:
        before.flush()
    raw = _Tolerant(number, "w", closefd=False)
    lines = number == 2 or raw.isatty()
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=lines
    )


def _open_descriptors() -> None:
    """Open what of the standard descriptors is closed, on nothing."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
