"""Restart the trainings of a result with the current code and compare their first evaluations.

    python -m scripts.replay --results results/part2_settings.json

A long training is not repeated whenever a line of its code has changed. Instead, its command is run
again up to the first evaluations. If these equal the stored ones in every digit, the row records
the current commit as "replayed", and `scripts/stale.py` lists what has changed since then. The rest
of a training and its test are not repeated; tests/golden does that on a small scale.
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
        UserError: the files differ from their commit, or a training no longer gives the stored
            values.
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
    """Return the machine and torch version of a row where they differ from those here.

    Another machine or version may compute other bits. The text is empty if both are equal.
    """
    mine = {"machine": here["machine"], "torch": here["versions"]["torch"]}
    return " and ".join(f"{name} {row[name]}" for name in mine if row[name] != mine[name])


def is_the_same(row: dict, evaluations: int) -> bool:
    """Return whether the command of a row reproduces its first stored evaluations."""
    after = [i for i, evaluation in enumerate(row["history"]) if "loss" in evaluation]
    n = after[:evaluations][-1] + 1
    with tempfile.TemporaryDirectory() as folder:
        return rounded(begun(row["command"], n, Path(folder) / "run")) == row["history"][:n]


def begun(line: str, n: int, folder: Path) -> list[dict]:
    """Run a command until its history has `n` rows, then stop it; return these rows.

    Raises:
        UserError: the command ended earlier.
    """
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
    """Return the rows of its history that a run has written so far."""
    return runs.read_history(folder) if (folder / "history.csv").exists() else []


if __name__ == "__main__":
    command(Config, main)
