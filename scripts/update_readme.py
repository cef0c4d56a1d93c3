"""Insert the tables of results/*.md into README.md and docs.

The tables replace the text between `<!-- results/NAME.md -->` and `<!-- end -->`. A comment `<!--
results/NAME.md without COLUMN, COLUMN -->` leaves columns out; `with COLUMN = VALUE, VALUE` at its
end keeps only some rows.

python scripts/update_readme.py
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import UserError
from purenets.core.runs.command import command
from purenets.core.runs.files import write_atomically
from purenets.core.runs.options import (
    Options,
    file_path,
    option,
)
from scripts.shared import result_files

PAGES = ("README.md", "docs/results.md", "docs/benchmarks.md", "docs/reliability.md")
BLOCK = re.compile(
    r"(<!-- (results/[\w.]+\.md)(?: without (.*?))?(?: with (.*?) = (.*?))? -->\n)"
    r".*?(<!-- end -->)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Config(Options):
    """Put the tables of results/ into README.md and docs."""

    root: str = option(str(Path(__file__).parents[1]), "the folder of README.md", file_path)


def filled(text: str, root: Path) -> str:
    """Return the text with the tables of its file in every block.

    Raises:
        UserError: a file is missing, or is a draft.
    """

    def fill(block: re.Match) -> str:
        path = root / block[2]
        if not path.exists():
            raise UserError(f"{path}: named in a page, but it does not exist")
        result_files.read(path.with_suffix(".json"))  # refuses a draft
        tables = path.read_text(encoding="utf-8")
        tables = rows_with(tables, block[4], block[5]) if block[4] else tables
        return f"{block[1]}\n{without(tables, block[3] or '')}\n{block[6]}"

    return BLOCK.sub(fill, text)


def without(tables: str, columns: str) -> str:
    """Return Markdown tables without the columns of these names.

    Raises:
        UserError: no table has one of the columns.
    """
    lines, gone, found = [], [], set()
    for line in tables.splitlines():
        if not line.startswith("|"):
            gone = []
        elif not lines or not lines[-1].startswith("|"):  # a header
            names = cells_of(line)
            gone = [i for i, name in enumerate(names) if is_among(name, columns)]
            found |= {names[i] for i in gone}
        lines.append(line)
        if gone:
            kept = [cell for i, cell in enumerate(cells_of(line)) if i not in gone]
            lines[-1] = "|" + "|".join(kept) + "|" if set(line) <= set("|-:") else row(kept)
    unknown = columns
    for name in sorted(found, key=len, reverse=True):
        unknown = unknown.replace(name, "", 1)
    if unknown.strip(", "):
        raise UserError(f"without {columns}: no table has a column {unknown.strip(', ')}")
    return "\n".join(lines) + "\n"


def rows_with(table: str, column: str, values: str) -> str:
    """Return a Markdown table with only the rows whose cell in `column` is one of `values`.

    Raises:
        UserError: the table does not have the column, or a row with one of the values.
    """
    header, rule, *lines = table.splitlines()
    if column not in cells_of(header):
        raise UserError(f"with {column}: the table has no such column")
    at, wanted = cells_of(header).index(column), values.split(", ")
    missing = set(wanted) - {cells_of(line)[at] for line in lines}
    if missing:
        raise UserError(f"with {column} = {', '.join(sorted(missing))}: the table has no such row")
    return "\n".join([header, rule, *(line for line in lines if cells_of(line)[at] in wanted)])


def cells_of(line: str) -> list[str]:
    """Return the cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def row(cells: list[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def is_among(name: str, names: str) -> bool:
    """Return whether `name` is one of the comma-separated `names`; it may have commas itself."""
    return f", {name}, " in f", {names}, "


def main(config: Config) -> None:
    root = Path(config.root)
    if missing := [page for page in PAGES if not (root / page).is_file()]:
        raise UserError(f"--root {root}: has no {missing[0]}, needs the folder of the project")
    for page in PAGES:
        write_atomically(
            root / page, filled((root / page).read_text(encoding="utf-8"), root).encode()
        )


if __name__ == "__main__":
    command(Config, main)
