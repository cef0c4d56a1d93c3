"""Patterns of names that match no leaf, as `masked` and its like take or refuse them."""

import numpy as np
import pytest
import torch

import purenets.torch_nets  # noqa: F401 (says whether something traces)
from purenets import UserError, optim

NAMES = ("fc1.weight", "fc1.bias", "block.norm.weight", "block.norm.bias")
PARAMS = {name: np.ones((2, 2) if name == "fc1.weight" else 2) for name in NAMES}
DECAY, SGD = optim.add_decayed_weights(0.1), optim.sgd(0.1)
TAKERS = {
    "masked": lambda where: optim.masked(DECAY, where),
    "muon": lambda where: optim.muon(matrices=where),
    "beta_lasso": lambda where: optim.beta_lasso(SGD, 0.1, where=where),
}
WRONG = {
    ("bias",): r"'bias' matches no leaf as a whole, '\*.bias' does; the names are fc1.weight, ",
    ("fc1", "*.bias"): r"'fc1' matches no leaf as a whole, 'fc1.\*' does",
    ("*.bias", "norm"): r"'norm' matches no leaf as a whole, '\*.norm.\*' does",
    ("*.bias", "norm*"): r"'norm\*' matches no leaf as a whole, '\*.norm\*' does",
    ("dense*",): r"'dense\*' matches no leaf; the names are",
    ("*.bias", "fc2.weight"): "'fc2.weight' matches no leaf; the names are",
}


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize("patterns", WRONG, ids=str)
def test_pattern_of_no_leaf_is_refused(patterns, name, array):
    params = {n: array(leaf) for n, leaf in PARAMS.items()}
    for where in (optim.named(*patterns), optim.not_named(*patterns)):
        inside = optim.chain(optim.accumulate(TAKERS[name](where), 2), optim.clip_by_value(1.0))
        for optimizer in (TAKERS[name](where), inside):
            with pytest.raises(UserError, match=f"^{name}: pattern {WRONG[patterns]}"):
                optimizer.init(params)


def test_long_list_of_names_is_cut():
    params = {f"fc{i}.weight": np.ones(2) for i in range(50)}
    with pytest.raises(UserError, match=r"the names are fc0.weight, .*, fc5.weight, \.\.\.$"):
        optim.masked(DECAY, optim.named("*.bias")).init(params)


@pytest.mark.parametrize(
    "patterns", [("*.bias", "batch_norm*"), ("fc1.*",), ("fc1.bias",), ("*",), ()], ids=str
)
def test_recipe_for_other_nets_too_is_taken(patterns):
    for where in (optim.named(*patterns), optim.not_named(*patterns)):
        for taker in TAKERS.values():
            taker(where).init(PARAMS)


def test_patterns_in_a_part_may_be_those_of_another_part():
    """A part of a partition has not all leaves, and the same mask may be used in each."""
    spared = optim.chain(optim.masked(DECAY, optim.not_named("*.bias")), SGD)
    parts = {"matrix": spared, "vector": spared}
    label = lambda name, leaf: "matrix" if leaf.ndim > 1 else "vector"
    state = optim.partition(parts, label).init(PARAMS)
    assert list(state) == ["matrix", "vector"]
    optim.muon(other=optim.masked(SGD, optim.named("fc1.weight"))).init(PARAMS)
    wrong = optim.chain(optim.masked(DECAY, optim.not_named("bias")), SGD)
    with pytest.raises(UserError, match="pattern 'bias' matches no leaf"):
        optim.partition({"matrix": wrong, "vector": wrong}, label).init(PARAMS)
    with pytest.raises(UserError, match=r"the names are fc1\.bias$"):  # not of the params before
        optim.masked(DECAY, optim.named("*.weight")).init({"fc1.bias": np.ones(2)})


def test_state_under_vmap_is_the_same():
    optimizer = optim.masked(optim.trace(0.9), optim.named("fc1.*"))
    params = {name: torch.as_tensor(leaf) for name, leaf in PARAMS.items()}
    names = optim.get_state(optimizer.init(params), "momentum_buffer").keys()
    stacked = {name: torch.stack([leaf] * 3) for name, leaf in params.items()}
    together = torch.func.vmap(optimizer.init)(stacked)
    assert optim.get_state(together, "momentum_buffer").keys() == names
