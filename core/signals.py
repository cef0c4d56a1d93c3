"""Ctrl-C and SIGTERM as a question that a loop asks between two steps."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

STOPPING = (signal.SIGINT, signal.SIGTERM)
_ignored: set[int] = set()
_asked: list[list[int]] = []  # what arrived in each block of `stop_requested`, the innermost last


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM arrived; raised between two steps, after `save` was called.

    Also raised where a step is compiled, before it is taken.
    """


def ignore() -> None:
    """Ignore SIGINT and SIGTERM from now on: another process of the run obeys them for all."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    _ignored.update(STOPPING)


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl-C or SIGTERM only makes the given function true; the second
    acts as usual. Outside the main thread, where Python delivers no signals, and after `ignore` it
    stays false."""
    asked = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in STOPPING if number not in _ignored}

    def ask(number, frame):
        asked.append(number)
        restore()

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    _asked.append(asked)
    for number in before:
        signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        restore()
        _asked.pop()


def expect_no_stop(doing: str) -> None:
    """Raise Interrupted if a loop has been asked to stop while it was `doing` something.

    A terminal sends Ctrl-C to this process and to all that it started. So what they made until then
    may be of no use, even where no error says so, and the loop must not go on with it.
    """
    if any(_asked):
        raise Interrupted(f"stopped while {doing}")
