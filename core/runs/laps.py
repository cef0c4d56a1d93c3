"""`seconds.json`: when a run was saved. Apart from the history, which is the same whenever and
wherever it is made.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from purenets.core.arguments import expect_paths
from purenets.core.runs.json_files import read_json, write_json

TIME = "seconds.json"
LAP = {"step": int, "seconds": float}
SCHEMA = ({"laps": [LAP]}, [LAP])  # the second: as it was written before


def stopwatch(folder: Path | None) -> Callable[..., list[dict]]:
    """Start; return `lap(step, steps=None)`, the laps of the run up to now, at `step`.

    A lap holds the step and the seconds since the run began, evaluations and saving included. What
    a killed process took after its last lap is not. Laps of the steps that the run takes once more
    are left out, and those of none of `steps`: there the run was interrupted, not evaluated.
    """
    laps = [] if folder is None else timings(folder)
    before, begin = laps[-1]["seconds"] if laps else 0.0, time.perf_counter()

    def lap(step: int, steps: Iterable[int] | None = None) -> list[dict]:
        known = None if steps is None else set(steps)
        new = {"step": step, "seconds": before + time.perf_counter() - begin}
        kept = [row for row in laps if row["step"] < step and (not known or row["step"] in known)]
        laps[:] = [*kept, new]
        return [*laps]

    return lap


def timer(folder: Path | None) -> Callable[[int], None]:
    """Start; return the function of a step that adds a lap to `seconds.json`."""
    lap = stopwatch(folder)
    return lambda step: write(folder, lap(step))


def write(folder: Path, laps: list[dict]) -> None:
    write_json(folder / TIME, {"laps": laps})


def timings(folder: Path) -> list[dict]:
    """Return the step and the seconds of each time that the run of a folder was saved."""
    expect_paths("timings", folder=folder)
    path = Path(folder) / TIME
    found = read_json(path, SCHEMA) if path.exists() else []
    return found["laps"] if isinstance(found, dict) else found


def training_seconds(folder: Path) -> float:
    """Return the seconds that the run of a folder has trained for."""
    laps = timings(folder)
    return laps[-1]["seconds"] if laps else 0.0
