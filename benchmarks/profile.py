"""Where the time of the tiny MLP's step goes, ours and the peers': what stands behind the bars that
are missed.

    python -m benchmarks.profile            # writes results/benchmarks_profile.json

MLP 2-20-2, batch 32, Adam, one thread. Parts take turns (`timing.py`), each by itself on the same
values again and again, so that their sum is less than a whole step. "A call" is a compiled function
of the whole state that counts the step and nothing else: what is paid before anything is computed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from benchmarks import jax_peers, mlp
from benchmarks.timing import in_turns, medians, write
from purenets import TrainState, numpy_nets, optim, torch_nets
from purenets.core.optim.internals.elementwise import advance_fn
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets import pytorch_mlp
from purenets.torch_nets.default_metrics import accuracy_for
from purenets.torch_nets.losses import cross_entropy


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
    logits, accuracy = model.apply(state.params, {}, x)[0], accuracy_for(cross_entropy)
    return {
        "forward and loss": lambda: functional.cross_entropy(
            model.apply(leaves, {}, x, train=True)[0], y
        ),
        "forward, loss and backward": lambda: gradient(state.params, {}, (x, y), None),
        "accuracy": lambda: accuracy(logits, y),
        "Adam, and the sum": lambda: advance(grads, state.opt_state, state.params),
        "the whole step": net,
    }


def parts_of_numpy() -> dict[str, Callable]:
    """The parts of a step of ours on NumPy, and its array operations with nothing around them."""
    adam = optim.adam(mlp.RATES[mlp.TINY])
    net, advance = mlp.in_numpy(mlp.TINY, adam), advance_fn(adam)
    model = numpy_nets.MLP(mlp.TINY[0], list(mlp.TINY[1:-1]), mlp.TINY[-1])
    gradient, state, (x, y) = numpy_nets.grad_fn(model), net.state, net.batch
    grads, _ = gradient(state.params, {}, (x, y), None)
    return {
        "forward": lambda: model.forward(state.params, {}, x, train=True),
        "forward, loss, backward, accuracy": lambda: gradient(state.params, {}, (x, y), None),
        "Adam, and the sum": lambda: advance(grads, state.opt_state, state.params),
        "the whole step": net,
        "its array operations alone": array_operations(state.params, x, y),
    }


def array_operations(params: dict, x: np.ndarray, y: np.ndarray) -> Callable[[], None]:
    """Return the calls of NumPy that the step makes, one after the other: what remains if all that
    stands around them costs nothing."""
    w1, b1, w2, b2 = params.values()
    p = m = v = np.concatenate(list(params.values()), axis=None)
    v, n, zero = v * v, len(y), np.zeros((), p.dtype)

    def call():
        h = x.dot(w1.T)
        h += b1
        h = np.maximum(h, 0)
        z = h.dot(w2.T)
        z += b2
        np.maximum.reduce(y.view(np.uint64))  # are all targets classes?
        begins = np.arange(0, 2 * n, 2)
        places, largest = begins + y, z.take(begins + z.argmax(axis=1))
        shifted = z - largest[:, None]
        e = np.exp(shifted)
        total = np.add.reduce(e, axis=1, keepdims=True)
        np.add.reduce(np.log(total[:, 0]) - shifted.take(places))
        e /= total
        dz = e.copy()
        dz.put(places, dz.take(places) - 1)
        dz *= 1 / n
        dw2, db2 = dz.T.dot(h), np.add.reduce(dz, axis=0)
        dh = dz.dot(w2) * np.sign(h)
        dw1, db1 = dh.T.dot(x), np.add.reduce(dh, axis=0)
        np.count_nonzero(z.argmax(axis=1) == y)
        g = np.concatenate([dw1, db1, dw2, db2], axis=None)
        moment = zero * m + zero * g
        square = zero * v + zero * (g * g)
        new = p + moment / (np.sqrt(square) * 0.5 + 1e-8) * zero
        for at, shape in ((0, w1.shape), (40, b1.shape), (60, w2.shape), (100, b2.shape)):
            new[at : at + math.prod(shape)].reshape(shape)

    return call


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
        "microseconds": {
            "NumPy, ours": microseconds(parts_of_numpy(), config.rounds),
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
    return table_of(("step", "part", "microseconds", "n"), rows)


if __name__ == "__main__":
    command(Config, main)
