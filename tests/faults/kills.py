"""Stop a script at random moments, go on with it, and see that it leaves what an uninterrupted run
leaves.
"""

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)  # one of them, each time


def stop_and_resume(
    command: Sequence, folder: Path, seconds: float, resume: Sequence = ("--resume",), most: int = 2
) -> Counter:
    """Run `command --out folder` with `resume`, stopped up to `most` times, until it ends by
    itself; how often each signal stopped it.

    seconds: what an uninterrupted run takes; each process is stopped within half of that, if it is
    still there. So some stops fall into its start, some into a step, some into a checkpoint.
    """
    random, counts = np.random.default_rng(), Counter()
    command = [*map(str, command), "--out", str(folder), *resume]
    for left in reversed(range(most + 1)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, error = process.communicate(timeout=random.uniform(0, seconds / 2) if left else None)
        except subprocess.TimeoutExpired:
            number = signal.Signals(random.choice(SIGNALS))
            process.send_signal(number)
            _, error = process.communicate()
            counts[number.name] += process.returncode != 0
        assert not _traceback(error.decode()), f"{command}: {error.decode()}"
        if process.returncode == 0:
            return counts
    raise AssertionError(f"{command}: does not end by itself; its last words are {error.decode()}")


def _traceback(error: str) -> bool:
    """Whether a script ended in a traceback, but for Ctrl-C before it began: while Python itself
    starts and imports the script, nobody can hear it."""
    return "Traceback" in error and not (
        error.strip().endswith("KeyboardInterrupt") and "in run" not in error
    )


def differing(a: Path, b: Path, names: Sequence[str]) -> list[str]:
    """The names of the files that are not the same bytes in both folders."""
    return [name for name in names if (a / name).read_bytes() != (b / name).read_bytes()]


def timed(command: Sequence) -> float:
    """Seconds of a command that has to succeed."""
    begin = time.monotonic()
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    return time.monotonic() - begin
