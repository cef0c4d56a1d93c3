"""Short runs of a result's command, with the current code or with the code of a commit."""

import itertools
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from purenets import UserError, runs
from scripts.shared import dependencies, result_files
from scripts.shared.dependencies import ROOT

PASSES = 4  # at most, of a short training; the longest first phase of a preset takes three
FEW = {"train_images": 300, "valid_fraction": 0.002, "batch_size": 60, "evaluations": 2}
NARROW = {  # the options of a narrow net, of each script; bfloat16 takes minutes a step without it
    "scripts/cnn_train.py": {"width": 0.125},
    "scripts/cifar10_cnn.py": {"channels": "8,8,8"},
    "scripts/cifar10_mlp.py": {"width": 32},
}
IN_PLACE = {"hidden": "64,64,64", "bottleneck": 16, "pca": 64}  # where a command has them
STEPS = {"steps": 20, "eval_freq": 10, "seeds": 2}
EXPERIMENTS = {  # the options of few steps, of each script that writes all its rows at once
    "scripts/compare_mlps.py": {"max_steps": 20, "eval_freq": 10, "seeds": 2},
    "scripts/shuffled_pixels.py": STEPS,
    "scripts/palindrome_sweep.py": STEPS | {"eval_size": 200},
    "scripts/palindrome_holdout.py": STEPS | {"eval_size": 200},
    "scripts/palindrome_states.py": {"steps": 20, "seeds": 2, "examples": 100},
}


def both(run: Callable[[str, Path], list], commit: str, line: str) -> tuple[list, list]:
    """Return what a run of a command gives with the current code and with that of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        dependencies.unpack(commit.removesuffix("-dirty"), Path(folder))
        if (ROOT / "data").exists():
            (Path(folder) / "data").symlink_to(ROOT / "data")
        return run(line, ROOT), run(as_known_to(Path(folder), line), Path(folder))


def as_known_to(code: Path, line: str) -> str:
    """Return a command without a preset that is younger than the code; it names all its options."""
    words = shlex.split(line)
    preset = dict(itertools.pairwise(words)).get("--preset")
    known = preset is None or f'"{preset}"' in (code / words[1]).read_text()
    return line if known else shlex.join(without(words, "--preset"))


def training(line: str, code: Path) -> list:
    """Return the history and the results of a training, made short, in a folder of code.

    It has a narrow net, few images, few steps and no test.

    Raises:
        UserError: the command failed.
    """
    words = shlex.split(line)
    given = dict(itertools.pairwise(words))
    options = FEW | {"epochs": min(float(given.get("--epochs", PASSES)), PASSES)}
    narrow = {name: value for name, value in IN_PLACE.items() if f"--{name}" in given}
    options |= narrow if "hidden" in narrow else narrow | NARROW[words[1]]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [*without(words, "--max_steps", "--eval_freq", "--out"), "--out", str(out)]
        succeed([*with_options(words, options), "--no-test"], code)
        return [history(out), json.loads((out / "results.json").read_text())]


def experiment(line: str, code: Path) -> list[dict]:
    """Return the rows of an experiment, made short, in a folder of code, without their origin.

    Raises:
        UserError: the command failed.
    """
    words = shlex.split(line)
    options = dict(EXPERIMENTS[words[1]])
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        options |= {"out": str(Path(folder) / "run")} if "--out" in words else {}
        words = without(words, "--results", *(f"--{name}" for name in options))
        succeed(with_options(words, options | {"results": str(results)}), code)
        rows = result_files.rows_of(json.loads(results.read_text()))
    return [{k: v for k, v in row.items() if k not in ("git_commit", "machine")} for row in rows]


def without(words: list[str], *names: str) -> list[str]:
    """Return the words of a command without some flags and their values."""
    for name in names:
        if name in words:
            at = words.index(name)
            words = words[:at] + words[at + 2 :]
    return words


def with_options(words: list[str], options: dict) -> list[str]:
    """Return the words of a command with more flags and their values."""
    return words + [text for name, value in options.items() for text in (f"--{name}", str(value))]


def succeed(words: list[str], code: Path) -> None:
    """Run the words of a command in a folder of code.

    Raises:
        UserError: it failed.
    """
    words = [sys.executable, *words[1:]]
    ended = subprocess.run(words, cwd=code, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["failed"])[-1]
        raise UserError(f"replay: {shlex.join(words[1:])}: {last}; run it by hand")


def history(folder: Path) -> list[dict]:
    """Return the rows of its history that a run has written so far."""
    return runs.read_history(folder) if (folder / "history.csv").exists() else []
