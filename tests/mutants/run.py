"""Make every mistake of `mutations.py`, one at a time, and see whether the fast tests notice.

    python -m tests.mutants.run                    # or: make mutants; writes results/mutants.json
    python -m tests.mutants.run --only dropout     # those with this in their name; writes nothing

Each is made in a copy of this tree, where pytest runs the tests that are listed with it. A mistake
is killed if one of them fails, and survives if all pass. Before that all tests have to pass without
a mistake. Whatever else happens (a text that is not there, a test that cannot be collected, one
that takes too long) is an error of the list and ends the run.
"""

import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from purenets import UserError
from purenets.core.report.tables import Table, table_of, to_text
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, not_negative, option
from scripts.shared import result_files
from tests.mutants.mutations import AREAS, Mutation
from tests.tree_files import ROOT, checked_in_files

LONGEST = 300  # seconds that the tests of one mistake may take
PASSED, FAILED = 0, 1  # exit codes of pytest
KILLED, SURVIVED = "killed", "survived"


@dataclass(frozen=True)
class Config(Options):
    """Make deliberate mistakes and see whether the tests notice."""

    only: tuple[str, ...] = option(
        (), "what the names of the mistakes to make hold, with commas; empty for all"
    )
    workers: int = option(0, "copies that work side by side; 0 for one a core", not_negative)
    results: str = option("results/mutants.json", "JSON file for what was found")


def main(config: Config) -> list[dict]:
    """Make all mistakes; return a row for each, and write them where all were made."""
    chosen = [
        (area, mutation)
        for area, mutations in AREAS.items()
        for mutation in mutations
        if not config.only or any(words in mutation.name for words in config.only)
    ]
    if not chosen:
        raise UserError(f"--only {','.join(config.only)}: in no name of a mistake")
    workers = min(config.workers or os.cpu_count() or 1, len(chosen))
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [copy_tree(Path(folder) / str(i)) for i in range(workers)]
        expect_green(copies[0], [mutation for _, mutation in chosen])
        rows = list(made_in(copies, chosen))
    found = {"command": "make mutants", "n": len(rows), "rows": rows}
    print(to_text(table(found)))
    for row in rows:
        if row["outcome"] == SURVIVED:
            print(f"survived: {row['name']} ({row['file']}); {row['reason'] or 'no reason given'}")
    if not config.only:
        result_files.write(config.results, found, table(found))
    return rows


def copy_tree(folder: Path) -> Path:
    """Return a copy of this tree without caches."""
    for name in checked_in_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def made_in(copies: list[Path], chosen: Iterable[tuple[str, Mutation]]) -> Iterator[dict]:
    """Yield the row of each mistake; each copy has one at a time."""
    free: queue.Queue[Path] = queue.Queue()
    for copy in copies:
        free.put(copy)

    def one(pair: tuple[str, Mutation]) -> dict:
        copy = free.get()
        try:
            return {"area": pair[0], **outcome_of(pair[1], copy)}
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        for row in pool.map(one, chosen):
            print(f"{row['outcome']:8}  {row['seconds']:5.1f} s  {row['name']}", flush=True)
            yield row


def outcome_of(mutation: Mutation, copy: Path) -> dict:
    """Return what the tests say of a mistake, made in a copy and undone again."""
    path = copy / mutation.file
    right = path.read_text()
    path.write_text(mutated(right, mutation))
    begin = time.monotonic()
    try:
        code, output = tested(copy, [mutation.tests])
    finally:
        path.write_text(right)
    if code not in (PASSED, FAILED):
        raise UserError(f"{mutation.name}: pytest ended with code {code}\n{output[-2000:]}")
    failed = re.search(r"^FAILED (\S+)", output, re.MULTILINE)
    return {
        "name": mutation.name,
        "file": mutation.file,
        "outcome": KILLED if code == FAILED else SURVIVED,
        "by": failed[1] if failed else "",
        "reason": mutation.reason,
        "seconds": round(time.monotonic() - begin, 1),
    }


def mutated(text: str, mutation: Mutation) -> str:
    """Return the source with the mistake in it.

    Raises:
        UserError: its place is not found exactly once.
    """
    found = text.count(mutation.old)
    if found != 1:
        raise UserError(
            f"{mutation.file}: {mutation.old!r} is there {found} times, needs once "
            f"({mutation.name})"
        )
    return text.replace(mutation.old, mutation.new)


def expect_green(copy: Path, mutations: Iterable[Mutation]) -> None:
    """Raise a UserError unless all listed tests pass where nothing is wrong."""
    for tests in dict.fromkeys(mutation.tests for mutation in mutations if "-k" in mutation.tests):
        _expect_passed(*tested(copy, [tests]))
    others = dict.fromkeys(m.tests for m in mutations if "-k" not in m.tests)
    _expect_passed(*tested(copy, others, limit=20 * LONGEST))


def _expect_passed(code: int, output: str) -> None:
    if code != PASSED:
        raise UserError(f"the tests fail without any mistake: {output[-2000:]}")


def tested(copy: Path, tests: Iterable[str], limit: float = LONGEST) -> tuple[int, str]:
    """Return the exit code and the output of pytest in a copy, up to the first failure."""
    line = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    line += list(dict.fromkeys(word for part in tests for word in part.split()))
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",  # or a mistake of the same length and second is not seen
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            line, cwd=copy, env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return -1, f"not done after {limit} s: {' '.join(line)}"
    return done.returncode, done.stdout + done.stderr


def table(found: dict) -> Table:
    """Return a row for each part of the code, and one for all."""
    rows = [counts(area, [r for r in found["rows"] if r["area"] == area]) for area in AREAS]
    rows = [row for row in rows if row[1]]
    return table_of(("mistakes in", "n", KILLED, SURVIVED), [*rows, counts("all", found["rows"])])


def counts(title: str, rows: list[dict]) -> tuple[str, int, int, int]:
    outcomes = [row["outcome"] for row in rows]
    return title, len(rows), outcomes.count(KILLED), outcomes.count(SURVIVED)


if __name__ == "__main__":
    command(Config, main)
