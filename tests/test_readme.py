"""README's code runs, its tables are those of results/, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from purenets import UserError
from scripts import update_readme

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def printed(code: str) -> list[str]:
    """The lines that the code prints in a process of its own, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def test_the_two_commands_come_first():
    assert re.match(r"# purenets\n\n```sh\nmake run .*\nmake test", TEXT)


def test_the_code_prints_what_its_comments_say():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert printed(code) == ["(20, 2)", "True"]


def test_the_code_runs_in_torch_by_the_changes_it_names():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    changes = {
        "purenets.numpy_nets": "purenets.torch_nets",
        "data.batches(task.train,": "data.batches(tuple(map(torch.tensor, task.train)),",
    }
    for old, new in changes.items():
        assert old in code and new.removesuffix(",") in TEXT.replace(code, "")
        code = code.replace(old, new)
    code = f"import torch\n{code}"
    assert printed(code) == ["torch.Size([20, 2])", "True"]


def test_tables_are_those_of_the_results():
    for page in update_readme.PAGES:
        text = (ROOT / page).read_text()
        assert update_readme.filled(text, ROOT) == text
        assert update_readme.BLOCK.search(text)


def test_no_table_of_readme_comes_from_a_dirty_tree():
    tables = [match[2] for match in update_readme.BLOCK.finditer(TEXT)]
    assert tables
    assert [name for name in tables if "-dirty" in (ROOT / name).read_text()] == []


def test_columns_that_a_page_leaves_out_are_left_out_of_its_tables():
    tables = "| a | b, c | d |\n|---|---:|---|\n| 1 | 2 | 3 |\n\ntext | as it is\n"
    assert update_readme.without(tables, "") == tables
    kept = "| a | d |\n|---|---|\n| 1 | 3 |\n\ntext | as it is\n"
    assert update_readme.without(tables, "b, c") == kept
    assert update_readme.without(tables, "b, c, d").startswith("| a |\n|---|\n| 1 |\n")
    with pytest.raises(UserError, match="no table has a column e"):
        update_readme.without(tables, "a, e")


def test_a_page_may_show_some_rows_only():
    table = "| a | b |\n|---|---:|\n| x | 1 |\n| y | 10 |\n| z | 5 |\n"
    assert update_readme.rows_with(table, "b", "5, 1").splitlines()[2:] == [
        "| x | 1 |",
        "| z | 5 |",
    ]
    with pytest.raises(UserError, match="with c: the table has no such column"):
        update_readme.rows_with(table, "c", "1")
    with pytest.raises(UserError, match="with b = 7: the table has no such row"):
        update_readme.rows_with(table, "b", "1, 7")


@pytest.mark.parametrize("page", ["README.md", *update_readme.PAGES[1:]])
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        assert target.startswith("https://") or (folder / target).exists(), target


def test_a_folder_without_the_pages_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--root .*: has no README\.md"):
        update_readme.main(update_readme.Config(root=str(tmp_path)))
