"""Names of optax: an AttributeError that says what they are called here."""

import re

import pytest

import purenets
from purenets import optim, schedules, torch_nets, tree
from purenets.core.optim.internals.optax_names import OURS

DOORS = {"optim": optim, "schedules": schedules, "tree": tree, "torch_nets": torch_nets}


@pytest.mark.parametrize("name", OURS)
def test_a_name_of_optax_is_answered_with_ours(name):
    for door in (optim, schedules):
        with pytest.raises(AttributeError, match=rf"{name} is a name of optax; here it is ") as e:
            getattr(door, name)
        assert OURS[name] in str(e.value)


@pytest.mark.parametrize("ours", OURS.values())
def test_our_names_exist(ours):
    dotted = re.findall(r"(?:optim|schedules|tree|torch_nets)(?:\.\w+)+", ours) or [f"-.{ours}"]
    for name in dotted:
        door, *path = name.split(".")
        found = DOORS.get(door, purenets)
        for part in path:
            found = getattr(found, part)
        assert callable(found)


def test_names_of_optax_are_those_of_optax():
    optax = pytest.importorskip("optax")
    assert [name for name in OURS if not hasattr(optax, name)] == []


def test_any_other_name_has_the_error_of_python():
    for name, door in (("optim", optim), ("schedules", schedules)):
        with pytest.raises(AttributeError, match=f"module 'purenets.{name}' has no attribute 'x'"):
            door.x  # noqa: B018
        assert not hasattr(door, "x")
