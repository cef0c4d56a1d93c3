"""Every option of every training script at its extremes, each in a tiny training.

    python -m tests.faults.flags COUNT

Prints JSON: how many were tried, taken and refused, and the first that ended otherwise. Of all
cases COUNT are tried, equally far apart. A process of its own, whose memory is limited, so that
what is not refused in time ends in a MemoryError and not in the machine.
"""

import contextlib
import dataclasses
import io
import json
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from purenets import UserError
from purenets.core.runs.command import out_of_memory
from purenets.core.runs.options import LARGEST, Options
from purenets.core.train import Diverged
from tests.faults.test_crash_points import CASES, config_of

SECONDS = 1  # a training that is still going on then is one that was taken
AGAIN = 30  # seconds of a second try, for a case that failed after the alarm had rung
SCRIPTS = [name for name in CASES if not name.endswith("_sweep") or name == "palindrome_sweep"]
INTEGERS = (-1, 0, 1, 2, 2**31, LARGEST - 1, LARGEST, 10**30, 10**400)
NUMBERS = (-1.0, 0.0, 1e-320, 1e-30, 0.999, 1e30, 1e300, float("inf"), float("nan"))
TEXTS = ("", "\0", "x" * 300, "nothing", "meta", "cuda:99", "cpu:1", "\ud800", "no/such.csv")
LISTS = ("", ",", "0", "1", "2,2", "-1", "x", "1" + "0" * 9, "1" + "0" * 30, "1" + "0" * 400)
# the length of a training is asked for, however long it is
UNLIMITED = {"max_steps", "train_steps", "steps", "epochs"}
OUTCOMES = ("taken", "refused")


class TimeIsUp(BaseException):
    """The training goes on."""


def values_of(field) -> tuple:
    """Return the extremes of an option's type."""
    if field.type is bool:
        return (True, False)
    return {int: INTEGERS, float: NUMBERS, str: TEXTS}.get(field.type, LISTS)


def cases() -> list[tuple[str, str, object]]:
    """Return each script with each option and each of its extremes."""
    return [
        (name, field.name, value)
        for name in SCRIPTS
        for field in dataclasses.fields(CASES[name][0].Config)
        for value in values_of(field)
    ]


@contextlib.contextmanager
def limited(seconds: int, rung: list[bool]) -> Iterator[None]:
    """Raise TimeIsUp in the block after so many seconds, and append True to `rung`."""

    def up(number, frame):
        rung.append(True)
        raise TimeIsUp

    signal.signal(signal.SIGALRM, up)
    # again and again: the first may ring where nothing can be raised, as in a callback
    signal.setitimer(signal.ITIMER_REAL, seconds, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def outcome(name: str, option: str, value: object, place: Path) -> str:
    """Train with one option at an extreme; return "taken", "refused", or what went wrong.

    A case that fails after the alarm has rung is tried again with more time, since a library in C++
    that is interrupted may turn the alarm into an error of its own.
    """
    rung: list[bool] = []
    found = tried(name, option, value, place / "first", SECONDS, rung)
    if found in OUTCOMES or not rung:
        return found
    return tried(name, option, value, place / "again", AGAIN, [])


def tried(
    name: str, option: str, value: object, place: Path, seconds: int, rung: list[bool]
) -> str:
    """Train with one option at an extreme for so many seconds; return how it ended."""
    quiet = io.StringIO()
    try:
        with (
            limited(seconds, rung),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            config = changed(config_of(name, place, resume=False), option, value)
            CASES[name][0].main(config)
        return "taken"
    except TimeIsUp:
        return "taken"
    except (UserError, Diverged) as error:
        return "refused" if len(str(error).splitlines()) == 1 else f"several lines: {error}"
    except (MemoryError, RuntimeError) as error:
        return "refused" if out_of_memory(error) else traceback.format_exc(limit=-2)
    except Exception:  # which is what is looked for
        return traceback.format_exc(limit=-2)


def changed(config: Options, option: str, value: object) -> Options:
    values = config.to_dict() | {"compile": False} if hasattr(config, "compile") else {}
    return type(config).from_dict({**config.to_dict(), **values, option: value})


def limit_memory(gib: int = 6) -> None:
    with contextlib.suppress(ImportError):
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + gib * 2**30, resource.RLIM_INFINITY))


def main(count: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.compiler.reset()  # imports what an alarm must not interrupt the import of
    every, counts, wrong = cases(), Counter(), []
    for name in SCRIPTS:  # so does a whole training, which no alarm (0 seconds) interrupts
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            tried(name, "out", str(Path(folder) / "run"), Path(folder), 0, [])
    limit_memory()
    chosen = every[:: max(1, len(every) // count)] if count < len(every) else every
    for case in chosen:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            found = outcome(*case, Path(folder))
        torch.set_num_threads(1)
        counts["tried"] += 1
        counts[found if found in OUTCOMES else "other"] += 1
        if found not in OUTCOMES:
            wrong.append([repr(case)[:200], found])
    # the alarm may ring while a stream is put back
    found = json.dumps({"counts": counts, "of": len(every), "wrong": wrong[:40]})
    print(found, file=sys.__stdout__)


if __name__ == "__main__":
    main(int(sys.argv[1]))
