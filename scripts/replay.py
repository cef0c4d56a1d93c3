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
"""

import itertools
import json
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
from scripts.shared import dependencies, result_files
from scripts.shared.dependencies import ROOT
from scripts.shared.schemas import SWEEP

POLL = 0.5  # seconds
PASSES = 4  # at most, of a short training; the longest first phase of a preset takes three
FEW = {"train_images": 300, "valid_fraction": 0.002, "batch_size": 60, "evaluations": 2}
NARROW = {  # the options of a narrow net, of each script; bfloat16 takes minutes a step without it
    "scripts/cnn_train.py": {"width": 0.125},
    "scripts/cifar10_cnn.py": {"channels": "8,8,8"},
    "scripts/cifar10_mlp.py": {"width": 32},
}
IN_PLACE = {"hidden": "64,64,64", "bottleneck": 16, "pca": 64}  # where a command has them


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
        UserError: the files differ from their commit, or a training no longer gives the same
            values.
    """
    here = runs.environment() | runs.machine()
    if here["git_commit"] is None or here["git_commit"].endswith("-dirty"):
        raise UserError("replay: the files differ from the commit; commit them first")
    path = Path(config.results)
    found = result_files.read(path, SWEEP)
    compared = {}  # whether the code of two commits gives the same, by commit and command
    for row in found["rows"]:
        if result_files.commit_of(row) == here["git_commit"]:
            continue
        n = rows_to(row["history"], config.evaluations)
        if other := differing(row, here):
            key = (result_files.commit_of(row), seedless(row["command"]))
            if key not in compared:
                compared[key] = whole(key[1], ROOT) == before(*key)
            same, text = (
                compared[key],
                f"; it ran with {other}: a short training compares its commit with this one",
            )
        else:
            same, text = now(row, n) == row["history"][:n], ""
        print(f"{name_of(row)}: {'the same' if same else 'another way'}{text}", flush=True)
        row.pop("replayed", None)
        if same:
            row["replayed"] = here["git_commit"]
        result_files.write(path, found)
    gone = [
        name_of(row) for row in found["rows"] if result_files.commit_of(row) != here["git_commit"]
    ]
    if gone:
        raise UserError(f"replay: {'; '.join(gone)}: go another way now; run them again")


def name_of(row: dict) -> str:
    return f"{row['setting']}, seed {row['seed']}"


def seedless(line: str) -> str:
    """Return a command without its seed and its folder, from the start."""
    words = [word for word in shlex.split(line) if word != "--resume"]
    return shlex.join(without(words, "--seed", "--out"))


def without(words: list[str], *names: str) -> list[str]:
    """Return the words of a command without some flags and their values."""
    for name in names:
        if name in words:
            at = words.index(name)
            words = words[:at] + words[at + 2 :]
    return words


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


def now(row: dict, n: int) -> list[dict]:
    """Return the first rows of the history that the current code gives."""
    return begun(row["command"], n, ROOT)


def before(commit: str, line: str) -> list:
    """Return what a short training gives here with the code of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        dependencies.unpack(commit.removesuffix("-dirty"), Path(folder))
        if (ROOT / "data").exists():
            (Path(folder) / "data").symlink_to(ROOT / "data")
        return whole(as_known_to(Path(folder), line), Path(folder))


def as_known_to(code: Path, line: str) -> str:
    """Return a command without a preset that is younger than the code; it names all its options."""
    words = shlex.split(line)
    preset = dict(itertools.pairwise(words)).get("--preset")
    known = preset is None or f'"{preset}"' in (code / words[1]).read_text()
    return line if known else shlex.join(without(words, "--preset"))


def whole(line: str, code: Path) -> list:
    """Return the history and the results of a command, made short, in a folder of code.

    Raises:
        UserError: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [sys.executable, *shlex.split(short(line))[1:], "--out", str(out)]
        ended = subprocess.run(words, cwd=code, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise UserError(f"replay: {short(line)}: {last_line(ended.stderr)}; run it by hand")
        return [history(out), json.loads((out / "results.json").read_text())]


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["failed"])[-1]


def short(line: str) -> str:
    """Return a command for a narrow net, few images and few steps, without the test."""
    words = shlex.split(line)
    given = dict(itertools.pairwise(words))
    options = FEW | {"epochs": min(float(given.get("--epochs", PASSES)), PASSES)}
    narrow = {name: value for name, value in IN_PLACE.items() if f"--{name}" in given}
    options |= narrow if "hidden" in narrow else narrow | NARROW[words[1]]
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return shlex.join([*without(words, "--max_steps", "--eval_freq"), *flags, "--no-test"])


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
            while process.poll() is None and len(history(out)) < n:
                time.sleep(POLL)
        finally:
            process.terminate()
            process.wait()
        found = history(out)[:n]
    if len(found) < n:
        raise UserError(f"replay: {line}: ended before its first evaluations; run it by hand")
    return rounded(found)


def history(folder: Path) -> list[dict]:
    """Return the rows of its history that a run has written so far."""
    return runs.read_history(folder) if (folder / "history.csv").exists() else []


if __name__ == "__main__":
    command(Config, main)
