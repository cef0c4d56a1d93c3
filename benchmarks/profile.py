"""Where the time of the tiny MLP's step goes, ours and the peers': what stands behind the bars that
are missed.

    python -m benchmarks.profile            # writes results/benchmarks_profile.json

MLP 2-20-2, batch 32, Adam, one thread. Parts take turns (`timing.py`), each by itself on the same
values again and again, so that their sum is less than a whole step. "A call" is a compiled function
of the whole state that counts the step and nothing else: what is paid before anything is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from benchmarks import jax_peers, mlp
from benchmarks.timing import in_turns, medians, write
from purenets import TrainState, optim, runs, torch_nets
from purenets.core.metrics import accuracy
from purenets.core.optim.elementwise import advance_fn
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets import pytorch_mlp


@dataclass(frozen=True)
class Config(Options):
    """Time the parts of a step."""

    rounds: int = option(20, "rounds in which all parts take turns", positive)
    results: str = option("results/benchmarks_profile.json", "JSON file for the numbers")


def parts_of_ours() -> dict[str, Callable]:
    """The parts of an eager step of ours, in their order."""
    net = mlp.in_torch(mlp.TINY, optim.adam(mlp.RATES[mlp.TINY]), accuracy=True)
    model = pytorch_mlp.MLP(mlp.TINY[0], list(mlp.TINY[1:-1]), mlp.TINY[-1])
    state, (x, y) = net.state, net.batch
    advance, gradient = (
        advance_fn(optim.adam(mlp.RATES[mlp.TINY])),
        torch_nets.grad_fn(model, metrics={}),
    )
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in state.params.items()}
    grads, _ = gradient(state.params, {}, (x, y), None)
    return {
        "forward and loss": lambda: functional.cross_entropy(
            model.apply(leaves, {}, x, train=True)[0], y
        ),
        "forward, loss and backward": lambda: gradient(state.params, {}, (x, y), None),
        "accuracy": lambda: accuracy(x, y),
        "Adam, and the sum": lambda: advance(grads, state.opt_state, state.params),
        "the whole step": net,
    }


def parts_of_torch() -> dict[str, Callable]:
    """The parts of a step of torch.nn and torch.optim."""
    net = mlp.Torch(mlp.TINY, accuracy=True)
    net()

    def backward():
        net.optimizer.zero_grad()
        net.loss().backward()

    return {
        "forward and loss": net.loss,
        "forward, loss and backward": backward,
        "Adam, fused": net.optimizer.step,
        "the whole step": net,
    }


def compiled() -> dict[str, Callable]:
    """A call, a step, and a step within a scan, of ours and of JAX."""
    adam, k = optim.adam(mlp.RATES[mlp.TINY]), mlp.SCANNED
    step = mlp.in_torch(mlp.TINY, adam, torch_nets.jit)
    count = torch_nets.jit(lambda state, batch: TrainState(*state[:4], state.step + 1))
    found = {
        "jit: a call": lambda: count(step.state, step.batch),
        "jit: a step": step,
        "jit: a step of a scan": mlp.in_torch(mlp.TINY, adam, torch_nets.jit, k),
    }
    if jax_peers.installed():
        import jax

        one, many = mlp.in_jax(mlp.TINY), mlp.in_jax(mlp.TINY, mlp.SCANNED)
        count_jax = jax.jit(lambda carry, step: (carry, step + 1))
        carry = one.carry
        one.carry = jax.tree.map(lambda leaf: leaf.copy(), carry)  # its own are donated

        def call():
            count_jax(carry, 0)[1].block_until_ready()

        found |= {"JAX: a call": call, "JAX: a step": one, "JAX: a step of a scan": many}
    return found


def microseconds(parts: dict[str, Callable], rounds: int) -> dict[str, float]:
    times = in_turns(parts, rounds)
    return {name: 1e3 * ms / getattr(parts[name], "k", 1) for name, ms in medians(times).items()}


def main(config: Config) -> dict:
    torch.set_num_threads(1)
    found = {
        "command": "python -m benchmarks.profile",
        "n": config.rounds,
        **runs.environment(),
        **runs.machine(),
        "microseconds": {
            "eager, ours": microseconds(parts_of_ours(), config.rounds),
            "eager, torch.nn": microseconds(parts_of_torch(), config.rounds),
            "compiled": microseconds(compiled(), config.rounds),
        },
    }
    write(config.results, found, table(found))
    return found


def table(found: dict) -> Table:
    """Return a row for each part."""
    rows = [
        (title, name, f"{value:.1f}", found["n"])
        for title, parts in found["microseconds"].items()
        for name, value in parts.items()
    ]
    return table_of(("", "part", "microseconds", "n"), rows)


if __name__ == "__main__":
    command(Config, main)
