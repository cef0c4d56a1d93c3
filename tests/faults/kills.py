"""Stop a script at random moments, go on with it, and see that it leaves what an uninterrupted run
leaves.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)  # one of them, each time


def start(script: str, flags: Sequence, processes: int = 1) -> list[str]:
    """Return the command of a script, by torchrun where there are several processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    how = torchrun if processes > 1 else []
    return [*map(str, [sys.executable, *how, ROOT / "scripts" / f"{script}.py", *flags])]


def stop_and_resume(
    command: Sequence, folder: Path, seconds: float, resume: Sequence = ("--resume",), most: int = 2
) -> Counter:
    """Run `command --out folder` with `resume`, stopped up to `most` times, until it ends by
    itself; how often each signal stopped it.

    All processes of the command get the signal, as from a terminal or a batch system.

    seconds: what an uninterrupted run takes; each process is stopped within that, if it is still
    there. So some stops fall into its start, some into a step, some into a checkpoint.
    """
    random, counts = np.random.default_rng(), Counter()
    command = [*map(str, command), "--out", str(folder), *resume]
    for left in reversed(range(most + 1)):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            _, error = process.communicate(timeout=random.uniform(0, seconds) if left else None)
        except subprocess.TimeoutExpired:
            number = signal.Signals(random.choice(SIGNALS))
            os.killpg(process.pid, number)
            _, error = process.communicate()
            counts[number.name] += process.returncode != 0
        assert not ends_in_traceback(error.decode()), f"{command}: {error.decode()}"
        if process.returncode == 0:
            return counts
    raise AssertionError(f"{command}: does not end by itself; its last words are {error.decode()}")


def ends_in_traceback(error: str) -> bool:
    """Whether a script ended in a traceback of its own, but for Ctrl-C before it began: while
    Python itself starts and imports the script, nobody can hear it. torchrun shows its own, whose
    files may lie within the project's folder too, in its virtual environment.
    """
    files = [line for line in error.splitlines() if line.strip().startswith('File "')]
    own = [line for line in files if f'"{ROOT}' in line and "site-packages" not in line]
    began = any(line.endswith((", in run", ", in main")) for line in own)
    interrupted = "KeyboardInterrupt" in error and not began
    return bool(own) and not interrupted


def differing(a: Path, b: Path, names: Sequence[str]) -> list[str]:
    """The names of the files that are not the same bytes in both folders."""
    return [name for name in names if (a / name).read_bytes() != (b / name).read_bytes()]


def timed(command: Sequence) -> float:
    """Seconds of a command that has to succeed."""
    begin = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*map(str, command)], check=True, capture_output=True, env=environment)
    return time.monotonic() - begin
