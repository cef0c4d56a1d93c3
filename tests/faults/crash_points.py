"""Every state of a run's files at which a process can be killed, and what a resumed run makes of
it.

A process that is killed leaves its files as they are at that moment. So one uninterrupted run, with
a copy of its files taken before, half-way, after each write and after each rename, shows all that
any kill can leave; each copy is gone on with.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from purenets.core.runs import files
from purenets.core.runs.files import UNFINISHED

# what the clock, the machine's folder and the number of commands decide; and the commit, which is
# dirty once someone edits the checkout while the tests run
VARIES = ("digest", "commands", "command", "out", "results", "resume", "seconds")
VARIES += ("training_seconds", "laps", "git_commit")


@contextlib.contextmanager
def copies(place: Path, into: Path) -> Iterator[list[Path]]:
    """Copy all that lies at `place` at every moment of every write within the block.

    Yields the list of the copies, each state once.
    """
    found, seen = [], set()
    fill, rename = files._fill, files._rename

    def copy() -> None:
        state = digest(place)
        if state not in seen:
            seen.add(state)
            found.append(into / f"{len(found):04}")
            shutil.copytree(place, found[-1])

    def fill_slowly(file, content: bytes) -> None:
        copy()
        for part in (content[: len(content) // 2], content[len(content) // 2 :]):
            fill(file, part)
            file.flush()
            copy()

    def rename_slowly(temporary: Path, path: Path) -> None:
        copy()
        rename(temporary, path)
        copy()

    files._fill, files._rename = fill_slowly, rename_slowly
    try:
        yield found
    finally:
        files._fill, files._rename = fill, rename


def digest(place: Path) -> str:
    """Return a digest of all names and contents; the random part of a temporary name left out."""
    total = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        found = UNFINISHED.fullmatch(path.name)
        total.update((f"{found['name']} unfinished" if found else path.name).encode())
        total.update(path.read_bytes() if path.is_file() else b"")
    return total.hexdigest()


def differing(a: Path, b: Path) -> list[str]:
    """Return the names of the files that are in one of both only, or say something else."""
    left, right = (
        {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
        for place in (a, b)
    )
    names = sorted(left.keys() ^ right.keys())
    return names + [
        n for n in sorted(left.keys() & right.keys()) if said(left[n]) != said(right[n])
    ]


def said(path: Path) -> object:
    """Return what a file says, apart from what the clock and the folder decide."""
    if path.suffix == ".json" and path.name != "checkpoint.json":
        return without(json.loads(path.read_text()))
    if path.suffix == ".md":
        return without_minutes(path.read_text())
    return path.read_bytes()


def without_minutes(text: str) -> list[list[str]]:
    """Return the cells of a table as Markdown, without the column of the minutes."""
    rows = [line.split("|") for line in text.splitlines()]
    head = next((row for row in rows if any(cell.strip() == "minutes" for cell in row)), [])
    kept = [i for i, cell in enumerate(head) if cell.strip() != "minutes"]
    return [[row[i] for i in kept if i < len(row)] if head else row for row in rows]


def without(value: object) -> object:
    """Return JSON without what varies; of laps the steps are kept."""
    if isinstance(value, dict):
        steps = [lap["step"] for lap in value.get("laps") or []]
        return {k: without(v) for k, v in value.items() if k not in VARIES} | {"laps": steps}
    return [without(part) for part in value] if isinstance(value, list) else value


def unfinished(place: Path) -> list[Path]:
    """Return what is left of killed writes."""
    return [path for path in place.rglob("*") if re.search(r"purenets-tmp|unfinished", path.name)]
