"""Begin the trainings of a result again, with the code as it is now: do they go the same way?

    python -m scripts.replay --results results/part2_settings.json

A training of an hour is not repeated for each line that changed in what it runs. Its command is
begun again, up to the first evaluations; where they equal the stored ones in every digit, the row
notes the commit as "replayed", and `scripts/stale.py` lists what has changed since then. The end of
a training and its test are not run again: tests/golden does that, in small.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from purenets import UserError, runs
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, file_path, option, positive
from purenets.core.runs.rows import rounded
from scripts.shared import result_files
from scripts.shared.dependencies import ROOT
from scripts.shared.schemas import SWEEP

POLL = 0.5  # seconds


@dataclass(frozen=True)
class Config(Options):
    """Begin the trainings of a result again and compare their first evaluations."""

    results: str = option(
        "results/part2_settings.json", "JSON file of a sweep of trainings on images", file_path
    )
    evaluations: int = option(1, "evaluations after the first step to compare", positive)


def main(config: Config) -> None:
    """Replay every row that is not known to come from this commit.

    Raises:
        UserError: the files differ from their commit, or a row goes another way.
    """
    here = runs.environment() | runs.machine()
    if here["git_commit"] is None or here["git_commit"].endswith("-dirty"):
        raise UserError("replay: the files differ from the commit; commit them first")
    path = Path(config.results)
    found = result_files.read(path, SWEEP)
    elsewhere = []
    for row in found["rows"]:
        if result_files.commit_of(row) == here["git_commit"]:
            continue
        if other := differing(row, here):
            print(f"{name_of(row)}: ran with {other}; replay it there", flush=True)
            elsewhere.append(row)
            continue
        same = is_the_same(row, config.evaluations)
        print(f"{name_of(row)}: {'the same' if same else 'another way'}", flush=True)
        row.pop("replayed", None)
        if same:
            row["replayed"] = here["git_commit"]
        result_files.write(path, found)
    gone = [
        name_of(row)
        for row in found["rows"]
        if result_files.commit_of(row) != here["git_commit"] and row not in elsewhere
    ]
    if gone:
        raise UserError(f"replay: {'; '.join(gone)}: go another way now; run them again")


def name_of(row: dict) -> str:
    return f"{row['setting']}, seed {row['seed']}"


def differing(row: dict, here: dict) -> str:
    """Return machine or version of a row, if it is not the one here: it may have other bits."""
    mine = {"machine": here["machine"], "torch": here["versions"]["torch"]}
    return " and ".join(f"{name} {row[name]}" for name in mine if row[name] != mine[name])


def is_the_same(row: dict, evaluations: int) -> bool:
    """Return True if the command of a row begins with the stored evaluations."""
    after = [i for i, evaluation in enumerate(row["history"]) if "loss" in evaluation]
    n = after[:evaluations][-1] + 1
    with tempfile.TemporaryDirectory() as folder:
        return rounded(begun(row["command"], n, Path(folder) / "run")) == row["history"][:n]


def begun(line: str, n: int, folder: Path) -> list[dict]:
    """Return the first `n` rows of the history of a command, which is stopped then."""
    words = shlex.split(line)
    words[words.index("--out") + 1] = str(folder)
    words = [sys.executable, *(word for word in words[1:] if word != "--resume")]
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while process.poll() is None and len(history(folder)) < n:
            time.sleep(POLL)
    finally:
        process.terminate()
        process.wait()
    found = history(folder)[:n]
    if len(found) < n:
        raise UserError(f"replay: {line}: ended before its first evaluations; run it by hand")
    return found


def history(folder: Path) -> list[dict]:
    """Return what a run has written of its history so far."""
    return runs.read_history(folder) if (folder / "history.csv").exists() else []


if __name__ == "__main__":
    command(Config, main)
