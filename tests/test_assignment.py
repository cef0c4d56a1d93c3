"""docs/assignment.md: every path, section, function, command and flag that it names exists."""

import ast
import dataclasses
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "assignment.md").read_text()
FILES = (
    *("pytorch_mlp.py", "pytorch_train_mlp.py", "cnn_model.py", "cnn_train.py"),
    *("dataset.py", "vanilla_rnn.py", "train.py"),
)


def test_every_path_exists():
    targets = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(targets) > 80
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target


def test_a_link_shows_the_path_that_it_leads_to():
    for shown, target in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", TEXT):
        assert (ROOT / "docs" / target).resolve() == (ROOT / shown).resolve(), shown


def test_every_command_names_a_script_and_its_flags():
    commands = re.findall(r"`python scripts/([\w/]+)\.py([^`]*)`", TEXT)
    assert len(commands) > 20
    for script, rest in commands:
        config = importlib.import_module(f"scripts.{script.replace('/', '.')}").Config
        known = {field.name for field in dataclasses.fields(config)}
        assert set(re.findall(r"--(\w+)", rest)) <= known, script
        config.parse(rest.split())


def test_every_target_of_make_exists():
    targets = set(re.findall(r"`make (\w+)", TEXT))
    assert targets >= {"report", "submission"}
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets <= set(rules)


def names_in(path: Path) -> set[str]:
    """Return the functions, classes and imported names of a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def test_every_function_is_in_its_file():
    named = re.findall(r"\]\(\.\./([\w/]+\.py)\) \(((?:`\w+`(?:, )?)+)\)", TEXT)
    assert len(named) > 30
    for path, functions in named:
        assert set(re.findall(r"`(\w+)`", functions)) <= names_in(ROOT / path), path


def test_every_section_of_a_notebook_exists():
    sections_of = re.findall(r"\[notebooks/(\w+)\.ipynb\]\([^)]+\) \(sections? ([\d and]+)\)", TEXT)
    assert len(sections_of) > 15
    for name, sections in sections_of:
        cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        text = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
        )
        for number in re.findall(r"\d+", sections):
            assert re.search(rf"^## {number}\. ", text, re.MULTILINE), f"{name}: section {number}"


@pytest.mark.parametrize("name", FILES)
def test_each_of_the_seven_files_has_its_row(name):
    (path,) = re.findall(rf"^\| `{name}` \| \[([\w/.]+)\]", TEXT, re.MULTILINE)
    assert Path(path).name == name and (ROOT / path).is_file()


def test_the_examples_run():
    examples = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    names = {}
    exec(compile(examples, "docs/assignment.md", "exec"), names)
    assert names["result"].history[-1]["step"] == 50
