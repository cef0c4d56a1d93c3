"""What a result depends on, and whether that has changed."""

import ast
import json

import pytest

from scripts import stale
from scripts.shared.dependencies import (
    BODY,
    Definition,
    Tree,
    changed,
    without_docstrings,
    working_tree,
)

ADAM = """
BETA = 0.9

def adam():
    return BETA

def amsgrad():
    return 2
"""
TRAIN = """
def fit(f):
    'Train.'
    return f() + step()

def step():
    return 1
"""
FILES = {
    "scripts/train.py": "from purenets import fit, optim\n\ndef main():\n    fit(optim.adam)\n",
    "purenets/__init__.py": (
        "from purenets.core import optim\nfrom purenets.core.train import fit\n"
    ),
    "core/__init__.py": "",
    "core/optim/__init__.py": "from purenets.core.optim.adam import adam, amsgrad\n",
    "core/optim/adam.py": ADAM,
    "core/train.py": TRAIN,
    "core/other.py": "def other():\n    return 3\n",
}


def after(path, old, new):
    """Return what has changed of what `scripts/train.py` uses when one file is edited."""
    now = Tree({**FILES, path: FILES[path].replace(old, new)}.get)
    return changed(now.used_by("scripts/train.py"), now, Tree(FILES.get))


def test_a_script_depends_on_what_its_definitions_name_through_all_doors():
    used = Tree(FILES.get).used_by("scripts/train.py")
    names = {(path, name) for path, name in used if name}
    assert names == {
        ("scripts/train.py", "main"),
        ("core/train.py", "fit"),
        ("core/train.py", "step"),
        ("core/optim/adam.py", "adam"),
        ("core/optim/adam.py", "BETA"),
    }
    assert Definition("purenets/__init__.py", BODY) in used


@pytest.mark.parametrize(
    ("path", "old", "new", "name"),
    [
        ("core/train.py", "return 1", "return 2", "step"),
        ("core/optim/adam.py", "0.9", "0.8", "BETA"),
        ("core/train.py", "def step", "print()\n\ndef step", BODY),
        ("scripts/train.py", "optim.adam", "optim.amsgrad", "main"),
    ],
)
def test_changed_code_is_found_wherever_it_is(path, old, new, name):
    assert Definition(path, name) in after(path, old, new)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("core/train.py", "Train.", "Train a net."),
        ("core/train.py", "return 1", "return 1  # a step"),
        ("core/optim/adam.py", "return 2", "return 3"),
        ("core/other.py", "return 3", "return 4"),
    ],
)
def test_comments_docstrings_and_what_nobody_names_change_nothing(path, old, new):
    assert after(path, old, new) == []


def test_a_docstring_that_is_a_whole_body_does_not_count():
    one, other = (
        ast.dump(without_docstrings(ast.parse(f"class Config:\n    '{text}'").body[0]))
        for text in ("Train a net.", "Train an MLP.")
    )
    assert one == other


def test_a_script_that_is_gone_has_changed():
    now, then = Tree({}.get), Tree(FILES.get)
    assert changed(now.used_by("scripts/train.py"), now, then) != []


def test_commands_name_the_modules_that_they_start():
    assert stale.entries("python scripts/train.py --out 'a b'") == ["scripts/train.py"]
    assert stale.entries("python -m benchmarks.mlp") == ["benchmarks/mlp.py"]
    assert "tests/mutants/run.py" in stale.entries("make mutants")


def test_every_stored_result_names_commands_of_which_it_is_known_what_they_use():
    now = Tree(working_tree)
    paths = sorted(stale.RESULTS.glob("*.json"))
    rows = [
        (path.name, row) for path in paths for row in stale.origins(json.loads(path.read_text()))
    ]
    assert {name for name, _ in rows} == {path.name for path in paths}
    assert len(now.used_by("scripts/train.py")) > 100


def test_a_result_comes_from_the_commits_of_all_its_parts():
    old, new = {"git_commit": "1" * 40}, {"git_commit": "2" * 40}
    command = {"command": "make faults"}
    for name, parts in (("origins", {"a": old, "b": new}), ("rows", [old, new])):
        found = stale.origins(new | command | {name: parts})
        assert {commit for commit, _ in found} == {"1" * 40, "2" * 40}
