"""What a look at the source files finds."""

import ast

import pytest

from tests.tree_files import ROOT, checked_in_files

FILES = [path for path in checked_in_files() if path.endswith(".py")]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def lonely_strings(node: ast.AST) -> list[ast.stmt]:
    """Return the statements of a block that are a text and nothing else, but for its docstring."""
    found = []
    for name in ("body", "orelse", "finalbody"):
        body = getattr(node, name, None)
        if isinstance(body, list):
            first = 1 if name == "body" and isinstance(node, DOCUMENTED) else 0
            found += [line for line in body[first:] if is_string(line)]
    return found


def is_string(line: ast.stmt) -> bool:
    value = getattr(line, "value", None)
    text = isinstance(value, ast.Constant) and isinstance(value.value, str)
    return isinstance(line, ast.Expr) and (text or isinstance(value, ast.JoinedStr))


@pytest.mark.parametrize("path", FILES)
def test_no_string_stands_alone(path):
    """A text on two lines without parentheses loses its second half in silence."""
    tree = ast.parse((ROOT / path).read_text())
    lines = [line.lineno for node in ast.walk(tree) for line in lonely_strings(node)]
    assert not lines, f"{path}: lines {lines}"
