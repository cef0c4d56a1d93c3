"""Optimizers against the packages of their authors, and against pytorch_optimizer, where these are
installed.

All is float64, but for what a package computes in float32 by itself. One needs a loss (MoMo's), and
gets that of which the gradient is.
"""

import importlib

import numpy as np
import pytest
import torch

from purenets import optim, tree
from purenets.core.optim.internals.extra_args import with_extra_args

STEPS = 60
MATRIX = np.random.default_rng(0).normal(size=(8, 8))


def flat(params: dict) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in params.values()])


def value_and_grad(params: dict, i: int) -> tuple[float, dict]:
    """f = log sum cosh(A p - c_i), a positive loss, and its gradient; c_i differs by the step."""
    z = MATRIX @ flat(params) - 0.5 * np.random.default_rng(i).normal(size=8)
    slope = MATRIX.T @ np.tanh(z)
    return float(np.log(np.cosh(z)).sum()), tree.ravel(params)[1](slope)


def start() -> dict:
    draw = np.random.default_rng(3).normal
    return {"w": draw(size=(2, 3)), "b": draw(size=2)}


def run(optimizer, params: dict) -> dict:
    state, update = optimizer.init(params), with_extra_args(optimizer.update)
    for i in range(STEPS):
        value, grads = value_and_grad(params, i)
        updates, state = update(grads, state, params, value=np.float64(value))
        params = optim.apply_updates(params, updates)
    return params


def run_theirs(make, params: dict) -> dict:
    tensors = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in params.items()}
    optimizer = make(tensors.values())
    for i in range(STEPS):
        value, grads = value_and_grad({n: t.detach().numpy() for n, t in tensors.items()}, i)
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name])
        if type(optimizer).__name__.startswith("Momo"):
            optimizer.step(loss=torch.tensor(value))
        else:
            optimizer.step()
    return {name: t.detach().numpy() for name, t in tensors.items()}


# ours; package, its class and its arguments; the tolerance
PEERS = {
    "prodigy": (
        optim.prodigy(d0=1e-2, weight_decay=0.1, use_bias_correction=True),
        ("prodigyopt", "Prodigy"),
        {"d0": 1e-2, "weight_decay": 0.1, "use_bias_correction": True},
        1e-10,
    ),
    "dadapt_adam": (
        optim.dadapt_adam(d0=1e-2, weight_decay=0.1, decoupled_weight_decay=True),
        ("dadaptation", "DAdaptAdam"),
        {"d0": 1e-2, "weight_decay": 0.1, "decouple": True},
        1e-10,
    ),
    "dog": (
        optim.dog(reps_rel=1e-2, weight_decay=0.1),
        ("dog", "DoG"),
        {"reps_rel": 1e-2, "weight_decay": 0.1},
        1e-10,
    ),
    "ldog": (
        optim.dog(reps_rel=1e-2, layerwise=True),
        ("dog", "LDoG"),
        {"reps_rel": 1e-2},
        1e-10,
    ),
    "momo": (
        optim.momo(0.2, weight_decay=0.1),
        ("momo", "Momo"),
        {"lr": 0.2, "weight_decay": 0.1},
        1e-10,
    ),
    "momo bound": (
        optim.momo(0.2, lb=-1.0, use_fstar=True),
        ("momo", "Momo"),
        {"lr": 0.2, "lb": -1.0, "use_fstar": True},
        1e-10,
    ),
    "momo_adam": (
        optim.momo_adam(0.1, weight_decay=0.1),
        ("momo", "MomoAdam"),
        {"lr": 0.1, "weight_decay": 0.1},
        1e-10,
    ),
    "adan": (
        optim.adan(0.02, weight_decay=0.1),
        ("pytorch_optimizer", "Adan"),
        {"lr": 0.02, "weight_decay": 0.1, "weight_decouple": False},
        1e-10,
    ),
    "adopt": (
        optim.adopt(0.02, weight_decay=0.1),
        ("pytorch_optimizer", "ADOPT"),  # which counts one step more than the authors
        {"lr": 0.02, "weight_decay": 0.1, "clip_lambda": lambda step: (step - 1) ** 0.25},
        1e-10,
    ),
    "ademamix": (
        optim.ademamix(0.02, weight_decay=0.1),
        ("pytorch_optimizer", "AdEMAMix"),
        {"lr": 0.02, "weight_decay": 0.1, "weight_decouple": True},
        1e-10,
    ),
    "soap": (
        optim.soap(0.02, weight_decay=0.1, precondition_frequency=5),
        ("pytorch_optimizer", "SOAP"),
        {"lr": 0.02, "weight_decay": 0.1, "precondition_frequency": 5},
        1e-10,
    ),
}


@pytest.fixture
def _all_float64(monkeypatch):
    """MoMo's loss and SOAP's decompositions are float32 in the packages, whatever the params."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float)


@pytest.mark.usefixtures("_all_float64")
@pytest.mark.parametrize("name", PEERS)
def test_gives_the_params_of(name):
    ours, (package, kind), hyper, tolerance = PEERS[name]
    pytest.importorskip(package)
    theirs = getattr(importlib.import_module(package), kind)
    found, expected = run(ours, start()), run_theirs(lambda p: theirs(p, **hyper), start())
    assert max(abs(found[leaf] - expected[leaf]).max() for leaf in found) < tolerance
    assert max(abs(found[leaf] - p).max() for leaf, p in start().items()) > 0.01
