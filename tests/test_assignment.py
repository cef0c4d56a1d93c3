"""docs/assignment.md: every path that it names exists, and every command that it names is there."""

import dataclasses
import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "assignment.md").read_text()


def test_every_path_exists():
    targets = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(targets) > 40
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target


def test_every_command_names_a_script_and_its_flags():
    commands = re.findall(r"`python (scripts/\w+\.py)([^`]*)`", TEXT)
    assert len(commands) > 10
    for script, rest in commands:
        config = importlib.import_module(f"scripts.{Path(script).stem}").Config
        known = {field.name for field in dataclasses.fields(config)}
        assert set(re.findall(r"--(\w+)", rest)) <= known, script


def test_every_section_of_a_notebook_exists():
    import json

    for name, sections in re.findall(
        r"\[notebooks/(\w+)\.ipynb\]\([^)]+\) \(sections? ([\d and]+)\)", TEXT
    ):
        cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        text = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
        )
        for number in re.findall(r"\d+", sections):
            assert re.search(rf"^## {number}\. ", text, re.MULTILINE), f"{name}: section {number}"
