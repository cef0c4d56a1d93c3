"""Pages of docs: their code runs from top to bottom, and a table is what it prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS / f"{name}.md" for name in ("toolbox", "meta_learning")]  # others: files of their own


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
    printed = run(code_of(page)).strip()
    assert printed in page.read_text()
    if page.stem == "toolbox":
        assert printed.startswith("| layer | operation |")
