"""Per-example gradients beside Opacus, and an ensemble of 64 MLPs beside 64 runs of torch.nn one
after the other.

    python -m benchmarks.toolbox            # writes results/benchmarks_toolbox.json

Contestants take turns on one thread (`timing.py`): a ratio is the median over the rounds, with
quartiles. What is large, the gradients of every example, is made in a process of its own for each
contestant: with malloc as our scripts set it (malloc.py), and as it is. Opacus (`pip install
'purenets[dp]'`) is left out where it is not installed. Per-example gradients: batch 64, nn.Linear
784-128-10, 1x28x28 images through two convolutions with GroupNorm, and a tanh RNN of 128 units over
10 one-hot digits (Opacus' own DPRNN, since nn.RNN cannot be hooked); eager on both sides. Ensemble:
MLP 2-20-2, Adam, batch 32, a step of every member; compiled, beside torch.nn with torch.optim,
eager.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.timing import apart, in_turns, medians, ratio, with_quartiles, write
from purenets import init_state, make_step, optim, random, runs
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets import MLP, VanillaRNN, ensemble, from_module, grad_fn, jit, stack_states
from purenets.torch_nets.analysis.per_example import per_example_grads

BATCH, MEMBERS = 64, 64


@dataclass(frozen=True)
class Config(Options):
    """Time per-example gradients beside Opacus and an ensemble beside single runs."""

    rounds: int = option(20, "rounds in which all contestants take turns", positive)
    results: str = option("results/benchmarks_toolbox.json", "JSON file for the numbers")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 10),
    )


def rnn() -> nn.Module:
    from opacus.layers import DPRNN

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = DPRNN(10, 128, batch_first=True), nn.Linear(128, 10)

        def forward(self, x):
            return self.out(self.rnn(x)[0][:, -1])

    return Net()


NETS = {"mlp": (mlp, (784,)), "cnn": (cnn, (1, 28, 28)), "rnn": (rnn, (10, 10))}


def data(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(0)
    x = torch.tensor(draw.normal(size=(BATCH, *shape)), dtype=torch.float32)
    return x, torch.tensor(draw.integers(0, 10, BATCH))


def ours(name: str) -> Callable[[], dict]:
    """Return our function for the gradient of each example, from the module's own params."""
    make, shape = NETS[name]
    torch.manual_seed(0)
    model = (
        VanillaRNN(*shape, 128, 10, recurrence="fused") if name == "rnn" else from_module(make())
    )
    params, buffers = model.init(torch.as_tensor(random.key(0)) if name == "rnn" else None)
    grads, batch = per_example_grads(model, train=True), data(shape)  # no layer here draws or mixes
    return lambda: grads(params, buffers, batch)[0]


def opacus(name: str) -> Callable[[], list]:
    """The same by Opacus."""
    from opacus.grad_sample import GradSampleModule

    make, shape = NETS[name]
    torch.manual_seed(0)
    module, (x, y) = GradSampleModule(make(), loss_reduction="mean"), data(shape)

    def call():
        module.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(module(x), y).backward()
        return [p.grad_sample for p in module.parameters()]

    return call


def timed(build: Callable, name: str) -> Callable[[], None]:
    """What `build(name)` gives, on one thread and without its result, which need not leave its
    process.
    """
    torch.set_num_threads(1)
    call = build(name)

    def without_result():
        call()

    return without_result


def assert_same_work(name: str) -> None:
    """Both give the same gradients (of the RNN, whose params have other names and places, the same
    numbers of them)."""
    mine, theirs = ours(name)(), opacus(name)()
    if name == "rnn":
        assert sum(g.numel() for g in mine.values()) <= sum(g.numel() for g in theirs)
        return
    for (leaf, a), b in zip(mine.items(), theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5), f"{name}: {leaf} differs from Opacus'"


def members() -> Callable[[], None]:
    """A step of all members at once."""
    model, optimizer = MLP(2, [20], 2), optim.adam(1e-2)
    step = jit(ensemble(make_step(grad_fn(model), optimizer)))
    keys = [torch.as_tensor(random.key(seed)) for seed in range(MEMBERS)]
    state = stack_states([init_state(model, optimizer, key) for key in keys])
    x, y = torch.randn(MEMBERS, 32, 2), torch.randint(0, 2, (MEMBERS, 32))
    held = [state]

    def call():
        held[0], _ = step(held[0], (x, y))

    return call


def one_by_one() -> Callable[[], None]:
    """A step of as many modules, one after the other."""
    modules = [nn.Sequential(nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 2)) for _ in range(MEMBERS)]
    optimizers = [torch.optim.Adam(module.parameters(), lr=1e-2) for module in modules]
    x, y = torch.randn(MEMBERS, 32, 2), torch.randint(0, 2, (MEMBERS, 32))

    def call():
        for i, (module, optimizer) in enumerate(zip(modules, optimizers, strict=True)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[i]), y[i]).backward()
            optimizer.step()

    return call


def against_opacus(name: str, rounds: int) -> dict:
    """Ours as our scripts run it, with memory reused (malloc.py), beside Opacus as it is; and both
    in the other way. Each in a process of its own."""
    assert_same_work(name)
    times = in_turns(
        {
            f"{who}{', memory reused' if reused else ''}": apart(
                timed, build, name, memory_reused=reused
            )
            for who, build in (("ours", ours), ("opacus", opacus))
            for reused in (True, False)
        },
        rounds,
    )
    pairs = {
        "times as fast": ("opacus", "ours, memory reused"),
        "times as fast, both with memory reused": ("opacus, memory reused", "ours, memory reused"),
        "times as fast, both without": ("opacus", "ours"),
    }
    ratios = {what: ratio(times[peer], times[mine]) for what, (peer, mine) in pairs.items()}
    return {
        "milliseconds": medians(times),
        "peer": f"opacus {importlib.metadata.version('opacus')}",
        **ratios,
    }


def main(config: Config) -> dict:
    torch.set_num_threads(1)
    times = in_turns({"ours": members(), "torch.nn, one by one": one_by_one()}, config.rounds)
    together = ratio(times["torch.nn, one by one"], times["ours"])
    results = {
        "command": "python -m benchmarks.toolbox",
        "n": config.rounds,
        **runs.environment(),
        **runs.machine(),
        "ensemble of 64": {"milliseconds": medians(times), "times as fast": together},
    }
    if importlib.util.find_spec("opacus"):
        results |= {f"per-example {name}": against_opacus(name, config.rounds) for name in NETS}
    else:
        print("opacus is not installed: left out")
    write(config.results, results, table(results))
    return results


def table(results: dict) -> Table:
    """Return a row for each comparison: how many times as fast ours is."""
    rows = []
    for title, found in results.items():
        if not isinstance(found, dict) or "milliseconds" not in found:
            continue
        for what in [name for name in found if name.startswith("times as fast")]:
            how = what.removeprefix("times as fast").strip(", ")
            peer = found.get("peer", "torch.nn, one by one")
            rows.append((title, f"{peer} ({how})" if how else peer, with_quartiles(found[what])))
    return table_of(("what", "peer", "times as fast (quartiles)"), rows)


if __name__ == "__main__":
    command(Config, main)
