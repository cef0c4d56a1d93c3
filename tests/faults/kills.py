"""Kill a script at random moments, go on with it, and see that it leaves what an uninterrupted run leaves."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core import checkpoint

KILLS = int(os.environ.get("PURENETS_KILLS", "4"))  # of each script


def kill_and_resume(command: Sequence, folder: Path, spread: float, limit: float = 60) -> int:
    """Run `command --out folder --resume` again and again until it ends by itself; the number of kills.

    KILLS times it gets a SIGKILL: one in four within its first seconds, the others up to `spread` seconds
    after it has written a checkpoint, which is within a step, between two, or in the next checkpoint. A run
    that takes over `limit` seconds fails.
    """
    random, kills = np.random.default_rng(), 0
    path = folder / checkpoint.NAME
    for _ in range(4 * KILLS + 4):
        written = _time_of(path)
        process = subprocess.Popen(
            [*map(str, command), "--out", str(folder), "--resume"], stdout=subprocess.DEVNULL
        )
        begin, early = time.monotonic(), random.uniform(0, 3) if random.integers(4) == 0 else np.inf
        while process.poll() is None:
            new = _time_of(path) != written
            if kills < KILLS and (new or time.monotonic() - begin > early):
                time.sleep(random.uniform(0, spread) if new else 0)
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
            if time.monotonic() - begin > limit:
                process.kill()
            time.sleep(0.002)
        if process.returncode != -signal.SIGKILL:
            break
    assert process.returncode == 0, f"{command}: ended with {process.returncode}"
    return kills


def differing(a: Path, b: Path, names: Sequence[str]) -> list[str]:
    """The names of the files that are not the same bytes in both folders."""
    return [name for name in names if (a / name).read_bytes() != (b / name).read_bytes()]


def _time_of(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
