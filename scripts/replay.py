"""Restart the trainings of a result with the current code and compare their first evaluations.

    python -m scripts.replay --results results/part2_settings.json

A long training is not repeated whenever a line of its code has changed. Instead, its command is run
again up to the first evaluations. If these equal the stored ones in every digit, the row records
the current commit as "replayed", and `scripts/stale.py` lists what has changed since then. The rest
of a training and its test are not repeated; tests/golden does that on a small scale.

Another machine or another version of torch may round differently. There, the current code is
compared with the code of the row's commit: the command runs with both, as a narrow net on few
images and for few steps, but through every phase, from the first step to the views of held-out
images. All that the two write has to be equal in every digit. Rows that differ by their seed alone
are compared once.

The experiments with MLPs and RNNs write all their rows at once, by one command. It is compared in
the same manner, with the code of each commit that rows come from: all its settings and lengths,
with two seeds and few steps.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from purenets import UserError, runs
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, file_path, option, positive
from purenets.core.runs.rows import rounded
from scripts.shared import result_files, short_runs
from scripts.shared.dependencies import ROOT
from scripts.shared.result_files import commit_of
from scripts.shared.schemas import of_results

POLL = 0.5  # seconds
Part = tuple[str, list[dict], Callable[[], bool]]  # a name, rows, and whether they are the same


@dataclass(frozen=True)
class Config(Options):
    """Begin the trainings of a result again and compare their first evaluations."""

    results: str = option(
        "results/part2_settings.json", "JSON file of trainings, or of an experiment", file_path
    )
    evaluations: int = option(1, "evaluations after the first step to compare", positive)


def main(config: Config) -> None:
    """Replay every row that is not known to come from this commit.

    Raises:
        UserError: the files differ from their commit, or rows no longer have the same values.
    """
    here = runs.environment() | runs.machine()
    if here["git_commit"] is None or here["git_commit"].endswith("-dirty"):
        raise UserError("replay: the files differ from the commit; commit them first")
    path, gone = Path(config.results), []
    found = result_files.read(path, of_results(path.stem))
    if "command" in found and shlex.split(found["command"])[1] not in short_runs.EXPERIMENTS:
        raise UserError(f"--results {path}: holds no trainings; its command is {found['command']}")
    parts = of_experiment(found) if "command" in found else of_trainings(found, here, config)
    for name, rows, is_same in parts:
        if all(commit_of(row) == here["git_commit"] for row in rows):
            continue
        same = is_same()
        print(f"{name}: {'the same' if same else 'no longer the same'}", flush=True)
        for row in rows:
            row.pop("replayed", None)
            row |= {"replayed": here["git_commit"]} if same else {}
        gone += [] if same else [name]
        result_files.write(path, found)
    if gone:
        raise UserError(
            f"replay: {'; '.join(gone)}: no longer give the stored values; run them again"
        )


def of_experiment(found: dict) -> Iterator[Part]:
    """Yield the rows of each commit of an experiment, which one command writes."""
    rows = result_files.rows_of(found)
    for commit in dict.fromkeys(map(commit_of, rows)):
        mine = [row for row in rows if commit_of(row) == commit]
        same = partial(is_same, short_runs.experiment, commit, found["command"])
        yield f"the rows of {commit[:10]}", mine, same


def of_trainings(found: dict, here: dict, config: Config) -> Iterator[Part]:
    """Yield each training of a sweep; it has a command of its own."""
    compared = cache(partial(is_same, short_runs.training))
    for row in found["rows"]:
        name = f"{row['setting']}, seed {row['seed']}"
        if other := differing(row, here):
            name += f" (it ran with {other}: a short training compares its commit with this one)"
            yield name, [row], partial(compared, commit_of(row), seedless(row["command"]))
        else:
            yield name, [row], partial(begins_alike, row, config.evaluations)


def is_same(run: Callable, commit: str, line: str) -> bool:
    """Return whether a short run gives the same with the code of a commit and with this one."""
    now, then = short_runs.both(run, commit, line)
    return now == then


def begins_alike(row: dict, evaluations: int) -> bool:
    """Return whether the current code gives the first evaluations of a training."""
    n = rows_to(row["history"], evaluations)
    return begun(row["command"], n, ROOT) == row["history"][:n]


def seedless(line: str) -> str:
    """Return a command without its seed and its folder, from the start."""
    words = [word for word in shlex.split(line) if word != "--resume"]
    return shlex.join(short_runs.without(words, "--seed", "--out"))


def differing(row: dict, here: dict) -> str:
    """Return the machine and torch version of a row where they differ from those here.

    Another machine or version may compute other bits. The text is empty if both are equal.
    """
    mine = {"machine": here["machine"], "torch": here["versions"]["torch"]}
    return " and ".join(f"{name} {row[name]}" for name in mine if row[name] != mine[name])


def rows_to(history: list[dict], evaluations: int) -> int:
    """Return the number of rows of a history up to an evaluation, counted after the first step."""
    after = [i for i, evaluation in enumerate(history) if "loss" in evaluation]
    return after[:evaluations][-1] + 1


def begun(line: str, n: int, code: Path) -> list[dict]:
    """Run a command in a folder of code until its history has `n` rows; return these rows.

    Raises:
        UserError: the command ended earlier.
    """
    words = shlex.split(line)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words[words.index("--out") + 1] = str(out)
        words = [sys.executable, *(word for word in words[1:] if word != "--resume")]
        process = subprocess.Popen(
            words, cwd=code, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while process.poll() is None and len(short_runs.history(out)) < n:
                time.sleep(POLL)
        finally:
            process.terminate()
            process.wait()
        found = short_runs.history(out)[:n]
    if len(found) < n:
        raise UserError(f"replay: {line}: ended before its first evaluations; run it by hand")
    return rounded(found)


if __name__ == "__main__":
    command(Config, main)
