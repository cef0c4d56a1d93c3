"""The files of results/: one writer and one reader for all of them.

A result is a JSON file with its tables as Markdown beside it. The file and each of its rows name
the commit and the machine that they come from. Results from a working tree with changes outside of
results/, notebooks/ and docs/figures/ are drafts: the file says so, and `read` refuses it. No page,
report, figure or notebook therefore shows a number that no commit reproduces.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from purenets import UserError, runs
from purenets.core.report.tables import Table, to_markdown
from purenets.core.runs.files import exclusive_file, write_atomically
from purenets.core.runs.json_files import read_json, write_json
from purenets.core.runs.provenance import DIRTY
from purenets.core.runs.schema import mismatch
from scripts.shared.schemas import of_results

ORIGIN = ("commit", "machine")  # the last columns of every table
DRAFT = "made from files that differ from their commit; commit them and run it again"
LISTS = ("rows", "cells")  # of a file: what has an origin of its own
ORIGINS = {f"{name}?": [dict] for name in LISTS}


@contextlib.contextmanager
def exclusive(path: str | Path | None) -> Iterator[Path | None]:
    """Hold the file of --results within the block, as `exclusive_file` does.

    Raises:
        UserError: there is such a file, or one with the name of its tables, that is no result: it
            would be replaced.
    """
    with exclusive_file(path) as held:
        if held:
            _expect_own(held, held.with_suffix(".md"))
        yield held


def _expect_own(path: Path, tables: Path) -> None:
    if path.exists():
        if "git_commit" not in read(path, drafts=True):
            raise UserError(f"--results {path}: is no file of results; name another file")
    elif tables.exists() and not _is_own(tables):  # own tables stand alone if `write` was killed
        raise UserError(f"--results {path}: {tables} would be replaced; name another file")


def _is_own(tables: Path) -> bool:
    """Return whether a file has a table with the last columns of ours."""
    header = f"| {' | '.join(ORIGIN)} |\n".encode()
    return tables.is_file() and header in tables.read_bytes()


def write(path: str | Path, found: dict, *tables: Table) -> None:
    """Write what was found as JSON, and its tables as Markdown beside it.

    Versions, commit and machine are added where `found` does not name them.
    """
    path, found = Path(path), complete({**runs.environment(), **runs.machine(), **found})
    found.pop("draft", None)
    if is_draft(found):
        found = {"draft": DRAFT, **found}
        print(f"{path}: a draft, {DRAFT}")
    if tables:  # written first, so that a JSON file always has its tables
        write_atomically(path.with_suffix(".md"), markdown(found, *tables).encode())
    write_json(path, found)


def read(path: str | Path, schema: Any = dict, drafts: bool = False) -> dict:
    """Return the content of a file of results; every row names its commit and machine.

    Args:
        path: path of the JSON file.
        schema: the schema of the content (`core/runs/schema.py`).
        drafts: whether to read a draft too, in order to continue it.

    Raises:
        UserError: the file cannot be read, violates the schema, or is a draft.
    """
    try:
        found = read_json(Path(path), dict)
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: cannot be read as a result ({reason})") from error
    if "draft" in found and not drafts:
        raise UserError(f"{path}: a draft, {DRAFT}")
    expect_schema(path, found, ORIGINS)
    expect_schema(path, found, schema)
    return complete(found)


def expect_schema(path: str | Path, found: dict, schema: Any) -> None:
    """Raise a UserError that says where the content of a results file violates the schema."""
    wrong = mismatch(found, schema)
    if wrong:
        raise UserError(f"{path}: cannot be read as a result ({wrong})")


def load(folder: str | Path) -> dict[str, dict]:
    """Return the content of every JSON file in a folder, by its name without suffix.

    Drafts are left out, and their names are printed.

    Raises:
        UserError: the folder or a file in it cannot be read.
    """
    found = {}
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix == ".json")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--results {folder}: cannot be read ({reason})") from error
    for path in paths:
        content = read(path, drafts=True)
        if "draft" in content:
            print(f"{path}: left out; a draft, {DRAFT}")
            continue
        expect_schema(path, content, of_results(path.stem))
        found[path.stem] = content
    return found


def commit_of(row: dict) -> str:
    """Return the last commit that is known to give a row (`scripts/replay.py`)."""
    return row.get("replayed") or row["git_commit"]


def rows_of(found: dict) -> list[dict]:
    """Return the rows or the cells of a file."""
    return next(found[name] for name in LISTS if name in found)


def complete(found: dict) -> dict:
    """Return the content with commit and machine in each row that does not name its own.

    Older files have them only once, for all rows.
    """
    whole = {name: found.get(name) for name in ("git_commit", "machine")}
    lists = {name: [{**whole, **row} for row in found[name]] for name in LISTS if name in found}
    return {**found, **lists}


def is_draft(found: dict) -> bool:
    """Return whether the file, or anything in it, comes from files that differ from a commit."""
    return any(str(commit).endswith(DIRTY) for commit in _commits(found))


def markdown(found: dict, *tables: Table) -> str:
    """Return the tables of a file as Markdown, with n, commit and machine in each row.

    A table without one of these columns gets the value of the file in each row.
    """
    text = "\n".join(to_markdown(with_origin(table, found)) for table in tables)
    return f"**Draft**: {DRAFT}.\n\n{text}" if "draft" in found else text


def with_origin(table: Table, found: dict) -> Table:
    """Return the table with columns n, commit and machine, from the file if it lacks them.

    A table whose n is not that of the file needs its own column.
    """
    head, *body = table.rows
    cells = dict(zip(ORIGIN, origin_cells([found]), strict=True))
    if "n" in found:
        cells = {"n": str(found["n"]), **cells}
    new = [name for name in cells if name not in head]
    rows = [[*head, *new], *([*row, *(cells[name] for name in new)] for row in body)]
    return table._replace(rows=rows)


def origin_cells(rows: Iterable[dict]) -> tuple[str, str]:
    """Return the commits and the machines of some rows for a table, each only once."""
    rows = list(rows)
    commits = dict.fromkeys(short(row.get("git_commit")) for row in rows)
    machines = dict.fromkeys(str(row.get("machine", "")) for row in rows)
    return ", ".join(commits), "; ".join(machines)


def short(commit: str | None) -> str:
    """Return the first ten digits of a commit, with a mark if files differed from it."""
    if commit is None:
        return "unknown"
    return commit[:10] + (DIRTY if commit.endswith(DIRTY) else "")


def _commits(content) -> Iterator[str | None]:
    """Yield every commit that is named in the content of a file."""
    if isinstance(content, dict):
        yield from (value for name, value in content.items() if name == "git_commit")
    if isinstance(content, dict | list):
        parts = content.values() if isinstance(content, dict) else content
        for part in parts:
            yield from _commits(part)
