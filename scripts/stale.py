"""List the results whose code has changed since the commit that they come from.

    make stale
    python -m scripts.stale --all   # each result, with the number of definitions it depends on

A result names its command, which depends on functions, classes and constants of the project
(`scripts/shared/dependencies.py`). If the code of one of them has changed, the command may no
longer give this result: run it again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from scripts.shared import dependencies
from scripts.shared.dependencies import ROOT, Definition, Tree
from scripts.shared.result_files import commit_of

RESULTS = ROOT / "results"
OF_MAKE = {"faults": "tests/faults", "mutants": "tests/mutants"}  # folders of what a target runs


class Stale(NamedTuple):
    """A result that its command may no longer give.

    Args:
        result: the name of the file.
        commits: the commits that its rows come from.
        used: the number of definitions that they depend on.
        changed: the definitions that have changed since.
        unknown: the commits that are not in this clone.
    """

    result: str
    commits: list[str]
    used: int
    changed: list[Definition]
    unknown: list[str]


def main(arguments: list[str] | None = None) -> int:
    """Print the results that are stale; return 1 if definitions of one have changed."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", maxsplit=1)[0], allow_abbrev=False
    )
    parser.add_argument(
        "--all", action="store_true", help="also list the results that are not stale"
    )
    every = parser.parse_args(arguments).all
    found = [s for s in stale(RESULTS) if every or s.changed or s.unknown]
    for result, commits, used, changed, unknown in found:
        since = ", ".join(commit[:10] for commit in commits)
        missing = "; a commit is not in this clone" if unknown else ""
        print(f"{result}: {used} definitions, since {since}: {text_of(changed)}{missing}")
    return int(any(s.changed for s in found))


def text_of(changed: list[Definition], most: int = 4) -> str:
    """Return the first few definitions that changed, and how many more there are."""
    names = [f"{path}:{name or 'what its import runs'}" for path, name in changed]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"changed: {', '.join(names[:most])}{more}" if names else "unchanged"


def stale(folder: Path) -> Iterator[Stale]:
    """Yield, for each result, what has changed since the commits that its rows come from."""
    now, tree_at = Tree(dependencies.working_tree), cache(tree_of)
    for path in sorted(folder.glob("*.json")):
        used, changed, unknown = set(), set(), []
        rows = sorted(origins(json.loads(path.read_text())))
        for commit, command in rows:
            mine = set().union(*(now.used_by(entry) for entry in entries(command)))
            old = tree_at(commit)
            used |= mine
            if old is None:
                unknown.append(commit)
            else:
                changed |= set(dependencies.changed(mine, now, old))
        commits = sorted({commit for commit, _ in rows})
        yield Stale(path.name, commits, len(used), sorted(changed), unknown)


def tree_of(commit: str) -> Tree | None:
    """Return the source of a commit, or None where this clone does not have it."""
    try:
        return Tree(dependencies.at_commit(commit.removesuffix("-dirty")))
    except (subprocess.CalledProcessError, FileNotFoundError):
        return None


def origins(found: dict) -> set[tuple[str, str]]:
    """Return the commits and commands that a result, or its rows, come from."""
    parts = [row for name in ("rows", "cells") for row in found.get(name) or []]
    parts += (found.get("origins") or {}).values()  # of the campaign of faults
    parts = [row for row in parts if isinstance(row, dict)] or [found]
    whole = {name: found.get(name) for name in ("git_commit", "command")}
    rows = ({**whole, **{k: v for k, v in row.items() if v}} for row in parts)
    return {(commit_of(row), row["command"]) for row in rows if row["command"]}


def entries(command: str) -> list[str]:
    """Return the paths of the modules that a command starts."""
    words = shlex.split(command)
    if words[0] == "make":
        folder = ROOT / OF_MAKE[words[1]]
        return [path.relative_to(ROOT).as_posix() for path in sorted(folder.glob("*.py"))]
    if words[1] == "-m":
        base = words[2].replace(".", "/")
        return [f"{base}.py" if (ROOT / f"{base}.py").exists() else f"{base}/__main__.py"]
    return [words[1]]


if __name__ == "__main__":
    sys.exit(main())
