"""Pages of docs: their code runs from top to bottom, and a table is what it prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
ELSEWHERE = {"several_processes"}  # test_several_processes_docs.py: two processes, a folder
PAGES = [
    page
    for page in sorted(DOCS.glob("*.md"))
    if "```python\n" in page.read_text() and page.stem not in ELSEWHERE
]


def code_of(page: Path) -> str:
    """Return the Python code of a page, from top to bottom."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))


def run(code: str) -> str:
    """Return what the code prints, with warnings as errors."""
    warn = (
        "-W",
        "error",
        "-W",
        "ignore::FutureWarning",
        "-W",
        "ignore::DeprecationWarning",
    )  # torch has its own
    command = [sys.executable, *warn, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_runs_and_what_it_prints_is_on_the_page(page):
    tables = re.split(r"\n(?=\| layer )", run(code_of(page)))  # one after the other
    assert all(table.strip() in page.read_text() for table in tables)


def test_the_toolbox_prints_its_table_and_no_page_is_left_out():
    assert {"toolbox", "meta_learning"} <= {page.stem for page in PAGES}
    assert "print(" in code_of(DOCS / "toolbox.md")
