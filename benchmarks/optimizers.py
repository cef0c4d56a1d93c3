"""1,000 L-BFGS fits in one compiled call beside 1,000 of torch.optim.LBFGS in a row; steps of SOAP
and Muon beside their public implementations.

    python -m benchmarks.optimizers     # writes results/benchmarks_optimizers.json

Contestants take turns on one thread (`timing.py`): a ratio is the median over the rounds, with
quartiles. L-BFGS: 20 iterations with strong-Wolfe line search (at most 25 evaluations, history 10)
from 1,000 starts, float64: least squares of 8 equations in 4 unknowns, and the net 3-3-1 with tanh
on 10 examples; each fit ends at torch's params, which is checked before anything is timed. torch's
closure takes the gradient by `torch.autograd.grad`, without zeroing or accumulating one. SOAP and
Muon: an update of the weights of an MLP 784-256-256-10, float32, from gradients that stand still;
SOAP's basis is brought up to date every 10 updates, so 10 of them are timed together. The peers are
pytorch_optimizer (`pip install -e ".[bench]"`), left out where it is not installed, and
torch.optim.Muon. Both round Muon's iteration to bfloat16; ours has the dtype of the weights by
default, and is timed in bfloat16 too.
"""

import importlib.metadata
import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import write
from benchmarks.toolbox import section, table
from purenets import Optimizer, optim
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets import jit

HYPER = {
    "max_iter": 20,
    "max_eval": 25,
    "history_size": 10,
    "line_search_fn": "strong_wolfe",
}
SIZES = (784, 256, 256, 10)
TOLERANCE = 1e-8  # of params that ours and torch's fits end at
PACKAGE = "pytorch_optimizer"


@dataclass(frozen=True)
class Config(Options):
    """Time L-BFGS, SOAP and Muon beside torch.optim and pytorch_optimizer."""

    rounds: int = option(20, "rounds in which all contestants take turns", positive)
    fits: int = option(1000, "L-BFGS fits at once", positive)
    results: str = option("results/benchmarks_optimizers.json", "JSON file for the numbers")


# --- L-BFGS ---------------------------------------------------------------------------------------


def least_squares(x: Tensor, data: Tensor) -> Tensor:
    """Return the mean of (A x - b)^2 for x (4,) and data (40,), which holds A (8, 4) and b (8,)."""
    return ((data[:32].reshape(8, 4) @ x - data[32:]) ** 2).mean()


def small_net(x: Tensor, data: Tensor) -> Tensor:
    """Return the squared error of a net 3-3-1 with weight decay, for x (16,) and data (40,)."""
    inputs, targets = data[:30].reshape(10, 3), data[30:]
    hidden = torch.tanh(inputs @ x[:9].reshape(3, 3).T + x[9:12])
    return ((hidden @ x[12:15] + x[15] - targets) ** 2).mean() + 0.05 * (x**2).sum()


PROBLEMS = {"least squares": (least_squares, 4), "MLP 3-3-1": (small_net, 16)}


def starts(n_params: int, fits: int) -> tuple[Tensor, Tensor]:
    """Return params (fits, n_params) and data (fits, 40)."""
    draw = np.random.default_rng(0).normal
    return torch.tensor(draw(size=(fits, n_params))), torch.tensor(draw(size=(fits, 40)))


def fit_together(f: Callable, x: Tensor, data: Tensor) -> Callable[[], Tensor]:
    """Return the function that fits all at once: one compiled call of the vmapped update."""
    optimizer, gradient = optim.lbfgs(**HYPER), torch.func.grad_and_value(f)

    def fit(x: Tensor, data: Tensor) -> Tensor:
        def value_and_grad(params: dict):
            grads, value = gradient(params["x"], data)
            return value, {"x": grads}

        params = {"x": x}
        value, grads = value_and_grad(params)
        extra = {"value": value, "value_and_grad_fn": value_and_grad}
        updates, _ = optimizer.update(grads, optimizer.init(params), params, **extra)
        return x + updates["x"]

    together = jit(torch.func.vmap(fit))
    return lambda: together(x, data)


def fit_in_a_row(f: Callable, x: Tensor, data: Tensor) -> Callable[[], Tensor]:
    """Return the function that fits one after the other by torch.optim.LBFGS."""

    def fit(x: Tensor, data: Tensor) -> Tensor:
        p = nn.Parameter(x.clone())

        def closure() -> Tensor:
            value = f(p, data)
            (p.grad,) = torch.autograd.grad(value, p)
            return value

        torch.optim.LBFGS([p], **HYPER).step(closure)
        return p.detach()

    return lambda: torch.stack([fit(*one) for one in zip(x, data, strict=True)])


def lbfgs(name: str, config: Config) -> dict:
    f, n_params = PROBLEMS[name]
    x, data = starts(n_params, config.fits)
    contestants = {
        "ours": fit_together(f, x, data),
        "torch.optim.LBFGS, in a row": fit_in_a_row(f, x, data),
    }
    mine, theirs = (call() for call in contestants.values())
    difference = float((mine - theirs).abs().max())
    assert difference < TOLERANCE, f"{name}: the fits differ by {difference}"
    return {"fits": config.fits, **section(contestants, config.rounds)}


# --- SOAP and Muon --------------------------------------------------------------------------------


def weights() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the matrices of the MLP, and gradients for them."""
    draw = np.random.default_rng(0).normal
    shapes = {f"fc{i}.weight": (b, a) for i, (a, b) in enumerate(itertools.pairwise(SIZES))}
    params, grads = (
        {
            name: torch.tensor(0.02 * draw(size=shape), dtype=torch.float32)
            for name, shape in shapes.items()
        }
        for _ in range(2)
    )
    return params, grads


def our_steps(optimizer: Optimizer, steps: int, compiled: bool) -> Callable[[], None]:
    """Return the function that takes `steps` updates, from where the one before ended."""
    params, grads = weights()

    def update(params, state):
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    step, held = jit(update) if compiled else update, [(params, optimizer.init(params))]

    def call() -> None:
        for _ in range(steps):
            held[0] = step(*held[0])

    return call


def their_steps(make: Callable, steps: int) -> Callable[[], None]:
    params, grads = weights()
    parameters = [nn.Parameter(p) for p in params.values()]
    for p, grad in zip(parameters, grads.values(), strict=True):
        p.grad = grad
    optimizer = make(parameters)

    def call() -> None:
        for _ in range(steps):
            optimizer.step()

    return call


def soap(config: Config) -> dict:
    from pytorch_optimizer import SOAP

    contestants = {
        "ours": our_steps(optim.soap(), 10, compiled=False),
        PACKAGE: their_steps(SOAP, 10),
    }
    return section(contestants, config.rounds)


def muon(config: Config) -> dict:
    theirs = {"torch.optim.Muon": their_steps(torch.optim.Muon, 1)}
    if importlib.util.find_spec(PACKAGE):
        from pytorch_optimizer import Muon

        groups = lambda parameters: Muon([{"params": parameters, "use_muon": True}])
        theirs[PACKAGE] = their_steps(groups, 1)
    contestants = {
        "ours": our_steps(optim.muon(), 1, compiled=True),
        "ours, bfloat16": our_steps(optim.muon(precision="bfloat16"), 1, compiled=True),
        "ours, eager": our_steps(optim.muon(), 1, compiled=False),
    }
    return section(contestants | theirs, config.rounds)


def main(config: Config) -> dict:
    torch.set_num_threads(1)
    results: dict = {"command": "python -m benchmarks.optimizers", "n": config.rounds}
    for name in PROBLEMS:
        results[f"{config.fits} L-BFGS fits, {name}"] = lbfgs(name, config)
    results["Muon, a step"] = muon(config)
    if importlib.util.find_spec(PACKAGE):
        results["peer"] = f"{PACKAGE} {importlib.metadata.version(PACKAGE.replace('_', '-'))}"
        results["SOAP, 10 steps"] = soap(config)
    else:
        print(f"{PACKAGE} is not installed: left out")
    write(config.results, results, table(results))
    return results


if __name__ == "__main__":
    command(Config, main)
