"""Names of optax and JAX: an AttributeError that says what they are called here."""

import re

import numpy as np
import pytest
import torch

import purenets
from purenets import optim, random, schedules, torch_nets, tree
from purenets.core.optim.internals.optax_names import OURS
from purenets.core.other_names import LIBRARIES, OTHER_NAMES

JAX_NAMES = [(module, name) for module, names in OTHER_NAMES.items() for name in names]
DOORS = {
    "random": random,
    "optim": optim,
    "schedules": schedules,
    "tree": tree,
    "torch_nets": torch_nets,
    "layers": torch_nets.layers,
    "losses": torch_nets.losses,
    "purenets": purenets,
}


DISTRIBUTIONS = {"exponential": 1.0, "gumbel": 0.5772}  # means; the latter is Euler's constant
DOTTED = r"\b(?:purenets|random|tree|torch_nets|layers|losses|torch)(?:\.\w+)+"


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
    for name, door in DOORS.items():
        module = "purenets" if door is purenets else f"purenets.{name}"
        with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'x'"):
            door.x  # noqa: B018
        assert not hasattr(door, "x")


@pytest.mark.parametrize(("module", "name"), JAX_NAMES)
def test_a_name_of_jax_is_answered_with_ours(module, name):
    library = LIBRARIES.get(module, "JAX")
    match = rf"^{module}\.{name} is a name of {library}; here it is "
    with pytest.raises(AttributeError, match=match) as e:
        getattr(DOORS[module], name)
    assert OTHER_NAMES[module][name] in str(e.value) and not hasattr(DOORS[module], name)


def test_what_stands_for_a_name_of_jax_exists():
    for ours in (ours for names in OTHER_NAMES.values() for ours in names.values()):
        for dotted in re.findall(DOTTED, ours):
            door, *path = dotted.split(".")
            found = {**DOORS, "torch": torch}[door]
            for part in path:
                found = getattr(found, part)
            assert callable(found)


@pytest.mark.parametrize("library", [np, torch], ids=["numpy", "torch"])
def test_what_stands_for_a_distribution_of_jax_is_that_in_both_libraries(library):
    given = {"random": random, "key": library.asarray(random.key(0)), "shape": (20_000,)}
    given["np"] = library
    drawn = {n: eval(OTHER_NAMES["random"][n].split(", or")[0], given) for n in DISTRIBUTIONS}
    for name, mean in DISTRIBUTIONS.items():
        assert abs(float(drawn[name].mean()) - mean) < 0.03
        assert bool(library.isfinite(drawn[name]).all())


@pytest.mark.parametrize("name", ["full_like", "ones_like"])
def test_what_stands_for_a_constant_of_jax_reads_no_value(name):
    given = {"tree": tree, "x": {"w": np.array([np.inf, np.nan, 3.0])}, "value": 1.0}
    assert eval(OTHER_NAMES["tree"][name], given)["w"].tolist() == [1.0, 1.0, 1.0]


def test_what_stands_for_a_draw_of_jax_has_its_distribution():
    key, names = torch.as_tensor(random.key(0)), OTHER_NAMES["random"]
    given = {"random": random, "key": key, "n": 9, "k": 4, "x": torch.arange(9)}
    given["logits"] = torch.tensor([1.0, 3.0]).log().expand(20_000, 2)
    formulas = {n: names[n].split(", or")[0] for n in ("categorical", "choice", "shuffle")}
    drawn = {name: eval(formula, given) for name, formula in formulas.items()}
    assert abs(drawn["categorical"].double().mean() - 0.75) < 0.02
    assert len(set(drawn["choice"].tolist())) == 4
    assert sorted(drawn["shuffle"].tolist()) == list(range(9))
