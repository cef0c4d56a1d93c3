"""Per-example gradients beside Opacus, and an ensemble of 64 MLPs beside 64 runs of torch.nn one
after the other.

    python -m benchmarks.toolbox            # writes results/benchmarks_toolbox.json

Contestants take turns on one thread (`timing.py`): a ratio is the median over the rounds, with
quartiles. What is large, the gradients of every example, is made in a process of its own for each
contestant, all with malloc as our scripts set it (malloc.py). Opacus (`pip install -e ".[dp]"`)
is left out where it is not installed; it has three ways to such gradients, by hooks, by torch.func
and by expanded weights. Per-example gradients: batch 64, nn.Linear 784-128-10, 1x28x28 images
through two convolutions with GroupNorm, and a tanh RNN of 128 units over 10 one-hot digits (ours by
the fused recurrence; Opacus' own DPRNN, since nn.RNN cannot be hooked); eager on both sides, and
ours under jit beside the same peers, which jit does not know. Ensemble: MLP 2-20-2, Adam, batch 32,
a step of every member; under jit, beside torch.nn with the fused Adam, eager, member by member.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.timing import apart, in_turns, medians, ratio, with_quartiles, write
from purenets import init_state, make_step, optim, random
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


def ours(name: str, compiled: bool = False) -> Callable[[], dict]:
    """Return our function for the gradient of each example, from the module's own params.

    compiled: under jit.
    """
    make, shape = NETS[name]
    torch.manual_seed(0)
    model = (
        VanillaRNN(*shape, 128, 10, recurrence="fused") if name == "rnn" else from_module(make())
    )
    params, buffers = model.init(torch.as_tensor(random.key(0)) if name == "rnn" else None)
    grads, batch = per_example_grads(model, train=True), data(shape)  # no layer here draws or mixes
    grads = jit(grads) if compiled else grads
    return lambda: grads(params, buffers, batch)[0]


MODES = ("hooks", "functorch", "ew")


def opacus(name: str, mode: str) -> Callable[[], list]:
    """The same by Opacus."""
    from opacus.grad_sample import wrap_model

    make, shape = NETS[name]
    torch.manual_seed(0)
    module, (x, y) = wrap_model(make(), mode, loss_reduction="mean"), data(shape)

    def call():
        module.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(module(x), y).backward()
        return [p.grad_sample for p in module.parameters()]

    return call


def timed(build: Callable, *arguments) -> Callable[[], None]:
    """What `build(*arguments)` gives, without its result, which need not leave its process."""
    call = build(*arguments)

    def without_result():
        call()

    return without_result


def modes_of(name: str) -> dict[str, tuple[str, str]]:
    """Return the arguments of `opacus` for the modes that know all layers of a net and give its
    gradients (of the RNN, whose params have other names and places, the same numbers of them)."""
    mine, found = ours(name)(), {}
    for mode in MODES:
        try:
            theirs = opacus(name, mode)()
        except (NotImplementedError, RuntimeError, AttributeError, TypeError) as error:
            print(f"opacus, {mode}: cannot compute the gradients of {name} ({error!r})"[:200])
            continue
        if name == "rnn":
            assert sum(g.numel() for g in mine.values()) <= sum(g.numel() for g in theirs)
        else:
            for (leaf, a), b in zip(mine.items(), theirs, strict=True):
                assert torch.allclose(a, b, atol=1e-5), f"{name}: {leaf} differs from {mode}"
        found[f"opacus, {mode}"] = (name, mode)
    return found


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
    optimizers = [torch.optim.Adam(module.parameters(), lr=1e-2, fused=True) for module in modules]
    x, y = torch.randn(MEMBERS, 32, 2), torch.randint(0, 2, (MEMBERS, 32))

    def call():
        for i, (module, optimizer) in enumerate(zip(modules, optimizers, strict=True)):
            optimizer.zero_grad(set_to_none=True)
            logits = module(x[i])
            nn.functional.cross_entropy(logits, y[i]).backward()
            optimizer.step()
            (logits.detach().argmax(1) == y[i]).float().mean()  # ours measures it too

    return call


def section(contestants: dict[str, Callable], rounds: int) -> dict:
    """Return the milliseconds of each contestant, and the ratios of "ours" to the others."""
    times = in_turns(contestants, rounds)
    peers = [name for name in contestants if name != "ours"]
    ratios = {f"ours / {peer}": ratio(times["ours"], times[peer]) for peer in peers}
    return {"n": rounds, "ms": medians(times), "ratio": ratios}


def against_opacus(name: str, rounds: int, compiled: bool = False) -> dict:
    """Ours beside each mode of Opacus, each in a process of its own; compiled: ours under jit."""
    peers = modes_of(name)
    contestants = {"ours": apart(timed, ours, name, compiled, memory_reused=True)} | {
        peer: apart(timed, opacus, *how, memory_reused=True) for peer, how in peers.items()
    }
    version = importlib.metadata.version("opacus")
    return {"peer": f"opacus {version}", **section(contestants, rounds)}


def main(config: Config) -> dict:
    torch.set_num_threads(1)
    together = section({"ours": members(), "torch.nn, one by one": one_by_one()}, config.rounds)
    results = {
        "command": "python -m benchmarks.toolbox",
        "n": config.rounds,
        "ensemble of 64": together,
    }
    if importlib.util.find_spec("opacus"):
        results |= {f"per-example {name}": against_opacus(name, config.rounds) for name in NETS}
        results |= {
            f"per-example {name} under jit": against_opacus(name, config.rounds, compiled=True)
            for name in NETS
        }
    else:
        print("opacus is not installed: left out")
    write(config.results, results, table(results))
    return results


def table(results: dict) -> Table:
    """Return a row for each comparison, with the ratio of our time to the peer's."""
    rows = []
    for title, found in results.items():
        if not isinstance(found, dict) or "ratio" not in found:
            continue
        mine = f"{found['ms']['ours']:.2f}"
        for pair, value in found["ratio"].items():
            peer = pair.removeprefix("ours / ")
            rows.append((title, peer, mine, f"{found['ms'][peer]:.2f}", with_quartiles(value)))
    return table_of(("what", "peer", "ours (ms)", "peer (ms)", "ratio (quartiles)"), rows)


if __name__ == "__main__":
    command(Config, main)
