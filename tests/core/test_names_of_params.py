"""Params may have the names that optimizers give to the entries of their states."""

import numpy as np
import pytest
import torch

from purenets import make_step, optim, random, schedules, train_state, tree
from purenets.core.optim.internals import blocks

NAMES = (
    ("0", "1"),
    ("exp_avg", "exp_avg_sq"),
    ("count", "exp_avg", "exp_avg_sq"),
    ("count", "sum", "inner"),
    ("count", "slow", "inner"),
    ("x", "z", "inner", "lr_max", "weight_sum"),
    ("hyper", "inner"),
)
RATE = schedules.constant(0.1)
OPTIMIZERS = {
    "adam": lambda: optim.adam(0.1),
    "adam of a schedule": lambda: optim.adam(RATE),
    "ema": lambda: optim.chain(optim.adam(0.1), optim.ema(0.9)),
    "adopt": lambda: optim.adopt(0.1),
    "nadam": lambda: optim.nadam(RATE),
    "accumulate": lambda: optim.accumulate(optim.adam(0.1), 2),
    "lookahead": lambda: optim.lookahead(optim.adam(0.1), 2),
    "schedule_free": lambda: optim.schedule_free(optim.sgd(0.1), 0.1),
    "inject_hyperparams": lambda: optim.inject_hyperparams(optim.adam, lr=0.1),
}
LIBRARIES = {"numpy": np.asarray, "torch": torch.as_tensor}


def trained(make, names, convert, dtype, size: int) -> list:
    """Return params and state after some steps, in order."""
    optimizer = make()
    params = {n: convert(np.linspace(1, 2 + i, size).astype(dtype)) for i, n in enumerate(names)}
    if dtype == "complex64":
        params = {name: p * (1 + 2j) for name, p in params.items()}
    step = make_step(lambda p, b, x, key: (tree.map(lambda v: v - 1, p), (b, {})), optimizer)
    state = train_state(params, {}, optimizer, random.key(0))
    for _ in range(3):
        state, _ = step(state, None)
    return [*state.params.values(), *tree.leaves(state.opt_state)]


@pytest.mark.parametrize("how", ["vector", "blocks", "complex"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("names", NAMES, ids=" ".join)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_names_of_params_change_nothing(name, names, library, how, monkeypatch):
    if how == "complex" and name == "adopt":
        pytest.skip("for real params")
    if how == "blocks":
        monkeypatch.setattr("purenets.core.vector_dict.MAX_MEAN_SIZE", 0)
        monkeypatch.setattr(blocks, "BLOCK", 4)
    dtype = "complex64" if how == "complex" else "float32"
    setting = (LIBRARIES[library], dtype, 10 if how == "blocks" else 3)
    found = trained(OPTIMIZERS[name], names, *setting)
    right = trained(OPTIMIZERS[name], [f"leaf{i}" for i in range(len(names))], *setting)
    assert all(np.array_equal(a, b) for a, b in zip(found, right, strict=True))
