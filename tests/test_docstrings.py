"""The docstrings of the public doors have the parts that a reader looks for."""

import importlib
import inspect
import re

import pytest

ANALYSIS = (
    *("accounting", "conjugate_gradients", "curvature", "diagonal", "ghost", "kfac", "laplace"),
    *("noise", "operators", "per_example", "privacy", "quadrature", "rnn_states", "trace"),
)
DOORS = (
    "purenets",
    "purenets.random",
    "purenets.tree",
    "purenets.data",
    "purenets.runs",
    "purenets.schedules",
    "purenets.numpy_nets",
    "purenets.optim",
    "purenets.torch_nets",
    "purenets.torch_nets.layers",
    "purenets.torch_nets.losses",
    *(f"purenets.torch_nets.analysis.{name}" for name in ANALYSIS),
)
SECTIONS = ("Args", "Returns", "Yields", "Raises", "Example", "Source")
NO_VERBS = re.compile(r"^(The|A|An|This|It|\w+s|[a-z])\b")  # "Returns", "The mean": no imperative


def functions() -> list:
    """Return the public functions of the doors, each once, by the name of its first door."""
    found = {}
    for door in DOORS:
        module = importlib.import_module(door)
        for name in getattr(module, "__all__", own_functions(module)):
            function = getattr(module, name)
            if inspect.isfunction(function) and function.__module__.startswith("purenets"):
                found.setdefault(function, f"{door}.{name}")
    return [pytest.param(function, id=name) for function, name in found.items()]


def own_functions(module) -> list[str]:
    """Return the public functions that a module defines, but for those that only check."""
    return [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__
        and not name.startswith(("_", "check_", "expect_"))
    ]


def section(text: str, name: str) -> str:
    """Return the lines of a section of a docstring, "" if it has none."""
    ends = "|".join(SECTIONS)
    found = re.search(rf"^{name}: ?(.*?)(?=^(?:{ends}):|\Z)", text, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("function", functions())
def test_docstring(function):
    text = inspect.getdoc(function) or ""
    first = text.split("\n\n")[0]
    assert first.endswith((".", ":")), "the first sentence ends with a period"
    assert not NO_VERBS.match(first), f"{first!r} does not begin with a verb in the imperative"
    args = section(text, "Args")
    names = [name.lstrip("*") for name in inspect.signature(function).parameters]
    missing = [name for name in names if not re.search(rf"^\s+.*\b{name}\b.*:", args, re.MULTILINE)]
    assert not missing, f"Args does not explain {', '.join(missing)}"
    returns = inspect.signature(function).return_annotation not in (None, "None")
    assert not returns or section(text, "Returns") or section(text, "Yields"), "no Returns"
    assert ">>>" in section(text, "Example"), "no Example that runs"
