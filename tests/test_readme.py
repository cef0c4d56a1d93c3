"""README's code runs, its tables are those of results/, and its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

from scripts import update_readme

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_two_commands_come_first():
    assert re.match(r"# purenets\n\n```sh\nmake run .*\nmake test", TEXT)


def test_the_code_prints_what_its_comments_say():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["(20, 2)", "True"]


def test_the_code_runs_in_torch_by_the_changes_it_names():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    code = re.sub(r"from numpy_nets.* import (\w+) +# or: (.*)", r"\2", code)
    code = "import torch\n" + code.replace(
        "batches(task.train,", "batches(tuple(map(torch.tensor, task.train)),"
    )
    assert "torch_nets.pytorch_mlp" in code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["torch.Size([20, 2])", "True"]


def test_tables_are_those_of_the_results():
    assert update_readme.filled(TEXT, ROOT) == TEXT
    assert update_readme.BLOCK.search(TEXT)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
