"""`seconds.json`: when a run was saved.

It is not a part of the history, which is the same whenever and wherever it is made.
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
    a killed process took after its last lap is not. Laps at or after `step`, which the run takes
    again, are dropped. So are laps at steps not in `steps`: there the run was interrupted, not
    evaluated.
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
    """Start a clock for a run; return the function that writes down the time of a step.

    Args:
        folder: the run's folder; its earlier times are continued. None in a process that does not
            write; it must not call the result.

    Returns:
        `lap(step)`, which adds a row to the folder's `seconds.json`.

    Raises:
        UserError: `seconds.json` is damaged, or folder is no path.

    Example:
        >>> import pathlib, tempfile
        >>> from purenets import runs
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = pathlib.Path(place)
        ...     lap = runs.timer(folder)
        ...     lap(100)
        ...     lap(200)
        ...     [row["step"] for row in runs.timings(folder)]
        [100, 200]
    """
    if folder is not None:
        expect_paths("timer", folder=folder)
        folder = Path(folder)
    lap = stopwatch(folder)
    return lambda step: write(folder, lap(step))


def write(folder: Path, laps: list[dict]) -> None:
    """Write the laps of a run to its `seconds.json`."""
    write_json(folder / TIME, {"laps": laps})


def timings(folder: Path) -> list[dict]:
    """Return the step and the seconds of each time that a run was saved.

    Args:
        folder: the run's folder.

    Returns:
        Rows {"step": int, "seconds": float}, the seconds since the run began, evaluations and
        saving included, without the time between an interruption and the resumption; [] for a run
        that wrote none.

    Raises:
        UserError: `seconds.json` is damaged.

    Example:
        >>> import pathlib, tempfile
        >>> from purenets import runs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     runs.timer(pathlib.Path(folder))(100)
        ...     rows = runs.timings(folder)
        >>> rows[0]["step"], rows[0]["seconds"] > 0
        (100, True)
    """
    expect_paths("timings", folder=folder)
    path = Path(folder) / TIME
    found = read_json(path, SCHEMA) if path.exists() else []
    return found["laps"] if isinstance(found, dict) else found


def training_seconds(folder: Path) -> float:
    """Return the seconds that a run has trained for.

    Args:
        folder: the run's folder.

    Returns:
        The seconds of the last row of `timings`; 0.0 if there is none.

    Raises:
        UserError: `seconds.json` is damaged.

    Example:
        >>> import pathlib, tempfile
        >>> from purenets import runs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     before = runs.training_seconds(folder)
        ...     runs.timer(pathlib.Path(folder))(100)
        ...     after = runs.training_seconds(folder)
        >>> before, after > before
        (0.0, True)
    """
    laps = timings(folder)
    return laps[-1]["seconds"] if laps else 0.0
