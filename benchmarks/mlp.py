"""Training steps of MLPs beside torch.nn, TorchOpt, JAX and scikit-learn.

    python -m benchmarks.mlp            # writes results/benchmarks_mlp.json

The nets are 2-20-2, batch 32; 64-32-...-32-10 with 100 hidden layers, batch 100; and
3072-1024-1024-10, batch 128. All contestants of a net take turns, round by round, in one process:
on one thread for the first two, on all cores for the wide one. Before that all take the same number
of steps and end with the params of torch.nn, which is asserted: nobody does less work. Ours are the
code that a user writes. Eager steps and NumPy measure loss and accuracy, ours and those of
torch.nn; compiled ones and the other peers measure the loss. Loops by scan get a batch for each
step, ours and JAX's. torch.optim's Adam is the fused one; JAX has its buffers donated, and its
params as a dict and as one vector. All have malloc as our scripts set it
(`runs.keep_freed_memory`). A peer that is not installed is left out by name.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from torch import nn

from benchmarks import jax_peers
from benchmarks.timing import in_turns, medians, ratio, with_quartiles, write
from purenets import make_step, numpy_nets, optim, random, scan, torch_nets, train_state, tree
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, not_negative, option, positive
from purenets.numpy_nets import mlp_numpy
from purenets.torch_nets import pytorch_mlp, to_numpy
from purenets.torch_nets.precision import cast

TINY, DEEP, WIDE = (2, 20, 2), (64, *[32] * 100, 10), (3072, 1024, 1024, 10)
BATCHES = {TINY: 32, DEEP: 100, WIDE: 128}
RATES = {
    TINY: 1e-2,
    DEEP: 1e-3,
    WIDE: 1e-5,
}  # of Adam; the wide net's is so low that rounding does not lead nets apart
SCANNED = 1000  # steps in one compiled call, by scan and lax.scan


@dataclass(frozen=True)
class Config(Options):
    """Time MLPs beside their peers."""

    rounds: int = option(30, "rounds in which all contestants take turns", positive)
    deep_rounds: int = option(20, "rounds of the deep net; 0 to leave it out", not_negative)
    wide_rounds: int = option(20, "rounds of the wide net; 0 to leave it out", not_negative)
    results: str = option("results/benchmarks_mlp.json", "JSON file for the numbers")


def data(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(BATCHES[sizes], sizes[0])).astype(np.float32)
    return x, draw.integers(0, sizes[-1], len(x))


def first_params(sizes: Sequence[int]) -> dict:
    model = pytorch_mlp.MLP(sizes[0], list(sizes[1:-1]), sizes[-1])
    return to_numpy(model.init(random.key(0))[0])


class Ours:
    """Steps of ours, k in a call, that keep their state.

    make(model, optimizer) gives the function of a call.
    """

    def __init__(self, sizes, MLP, convert: Callable, optimizer, make: Callable, k: int = 1):
        model = MLP(sizes[0], list(sizes[1:-1]), sizes[-1])
        batch = data(sizes)
        if k > 1:
            batch = tuple(np.stack([part] * k) for part in batch)
        self.k, self.batch = k, tuple(map(convert, batch))
        self.state = train_state(
            tree.map(convert, first_params(sizes)), {}, optimizer, random.key(1)
        )
        self.call = make(model, optimizer)

    def __call__(self) -> None:
        self.state, _ = self.call(self.state, self.batch)

    def params(self) -> dict:
        return to_numpy(self.state.params)


class Torch:
    """What one would write with torch.nn and torch.optim."""

    k = 1

    def __init__(
        self, sizes, compiled: bool = False, accuracy: bool = False, bfloat16: bool = False
    ):
        self.accuracy, self.bfloat16 = accuracy, bfloat16
        self.net = nn.Sequential()
        for i in range(1, len(sizes)):
            self.net.add_module(f"fc{i}", nn.Linear(*sizes[i - 1 : i + 1]))
            if i < len(sizes) - 1:
                self.net.add_module(f"relu{i}", nn.ReLU())
        self.net.load_state_dict(tree.map(torch.tensor, first_params(sizes)))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=RATES[sizes], fused=True)
        self.x, self.y = map(torch.tensor, data(sizes))
        self.forward = torch.compile(self.loss) if compiled else self.loss

    def loss(self):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            logits = self.net(self.x)
        logits = logits.float() if self.bfloat16 else logits
        if self.accuracy:
            self.right = (logits.detach().argmax(1) == self.y).float().mean()
        return nn.functional.cross_entropy(logits, self.y)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.forward().backward()
        self.optimizer.step()

    def params(self) -> dict:
        return to_numpy(dict(self.net.named_parameters()))


class TorchOpt:
    """What one would write with torch.func and TorchOpt, eager."""

    k = 1

    def __init__(self, sizes):
        import torchopt

        self.leaves, self.batch = (
            tree.map(torch.tensor, first_params(sizes)),
            tuple(map(torch.tensor, data(sizes))),
        )
        self.optimizer, self.apply = torchopt.adam(RATES[sizes]), torchopt.apply_updates
        self.state = self.optimizer.init(self.leaves)
        self.grad = torch.func.grad(self.loss)

    @staticmethod
    def loss(leaves: dict, x, y):
        n = len(leaves) // 2
        for i in range(1, n + 1):
            x = nn.functional.linear(x, leaves[f"fc{i}.weight"], leaves[f"fc{i}.bias"])
            x = torch.relu(x) if i < n else x
        return nn.functional.cross_entropy(x, y)

    def __call__(self) -> None:
        grads = self.grad(self.leaves, *self.batch)
        updates, self.state = self.optimizer.update(grads, self.state, inplace=False)
        self.leaves = self.apply(self.leaves, updates, inplace=False)

    def params(self) -> dict:
        return to_numpy(self.leaves)


def sklearn_step(sizes) -> Callable[[], None]:
    x, y = data(sizes)
    net = MLPClassifier(
        list(sizes[1:-1]), learning_rate_init=RATES[sizes], batch_size=len(x), alpha=0.0
    )
    return lambda: net.partial_fit(x, y, classes=list(range(sizes[-1])))


def in_numpy(sizes, optimizer) -> Ours:
    """Return our ordinary step on NumPy."""

    def make(model, optimizer):
        return make_step(numpy_nets.grad_fn(model), optimizer)

    return Ours(sizes, mlp_numpy.MLP, np.asarray, optimizer, make)


def in_torch(
    sizes,
    optimizer,
    wrap: Callable = lambda step: step,
    k: int = 1,
    accuracy: bool = False,
    bfloat16: bool = False,
) -> Ours:
    """Return our ordinary step on torch; for k > 1, a scan of k of them."""

    def make(model, optimizer):
        model = cast(model, torch.bfloat16) if bfloat16 else model
        metrics = None if accuracy else {}  # by default the accuracy
        step = make_step(torch_nets.grad_fn(model, metrics=metrics), optimizer)
        return wrap((lambda state, batches: scan(step, state, batches)) if k > 1 else step)

    return Ours(sizes, pytorch_mlp.MLP, torch.as_tensor, optimizer, make, k)


def in_jax(sizes, k: int = 1, one_vector: bool = False):
    import optax

    loss, adam = jax_peers.mlp_loss(len(sizes) - 1), optax.adam(RATES[sizes])
    return jax_peers.Step(loss, adam, first_params(sizes), data(sizes), k, one_vector)


def tiny() -> tuple[dict, dict]:
    """Ours and the peers of the tiny net, each by name."""
    adam, sizes = optim.adam(RATES[TINY]), TINY

    ours = {
        "numpy": in_numpy(sizes, adam),
        "torch, eager": in_torch(sizes, adam, accuracy=True),
        "torch, jit": in_torch(sizes, adam, torch_nets.jit),
        f"torch, jit, scan of {SCANNED}": in_torch(sizes, adam, torch_nets.jit, SCANNED),
    }
    peers = {"torch.nn": Torch(sizes, accuracy=True)} | (
        {"TorchOpt": TorchOpt(sizes)} if importlib.util.find_spec("torchopt") else {}
    )
    if jax_peers.installed():
        for params, one_vector in (("dict", False), ("one vector", True)):
            peers[f"JAX jit, {params}"] = in_jax(sizes, 1, one_vector)
            peers[f"JAX lax.scan, {params}"] = in_jax(sizes, SCANNED, one_vector)
    return ours, peers


def deep() -> tuple[dict, dict]:
    """Ours and the peer of the deep net."""
    adam = optim.adam(RATES[DEEP])
    return {"torch, eager": in_torch(DEEP, adam, accuracy=True)}, {
        "torch.nn": Torch(DEEP, accuracy=True)
    }


def wide() -> tuple[dict, dict]:
    """Ours and the peers of the wide net."""
    adam = optim.adam(RATES[WIDE])
    ours = {  # not NumPy's: OpenBLAS's threads go on spinning, and whoever comes next would pay
        "torch, eager": in_torch(WIDE, adam, accuracy=True),
        "torch, jit": in_torch(WIDE, adam, torch_nets.jit),
        "torch, jit, bfloat16": in_torch(WIDE, adam, torch_nets.jit, bfloat16=True),
    }
    peers = {
        "torch.nn": Torch(WIDE, accuracy=True),
        "torch.nn, compiled": Torch(WIDE, compiled=True),
        "torch.nn, compiled, bfloat16": Torch(WIDE, compiled=True, bfloat16=True),
    }
    return ours, peers | ({"JAX jit": in_jax(WIDE)} if jax_peers.installed() else {})


def assert_same_work(nets: dict, sizes: Sequence[int]) -> None:
    """After 100 steps all params have moved as those of torch.nn; after 1,000 in one call, where
    rounding has grown, as those of each other.
    """
    for k in sorted({net.k for net in nets.values()}):
        group = {name: net for name, net in nets.items() if net.k == k}
        for net in group.values():
            for _ in range(max(1, 100 // k)):
                net()
        first = "torch.nn" if "torch.nn" in group else next(iter(group))
        expected = moved(group[first].params(), sizes)
        for name, net in group.items():
            error = np.linalg.norm(moved(net.params(), sizes) - expected)
            error /= np.linalg.norm(expected)
            tolerance = 0.2 if "bfloat16" in name else 0.1
            assert error < tolerance, f"{name}: the params have moved otherwise, by {error}"


def moved(params: dict, sizes: Sequence[int]) -> np.ndarray:
    """Return by how much all params have changed, as one vector."""
    return np.concatenate([(params[n] - p).ravel() for n, p in first_params(sizes).items()])


def measure(
    ours: dict, peers: dict, rounds: int, sizes: Sequence[int], more: dict | None = None
) -> dict:
    """Milliseconds of a step of each, and the ratios of ours to the peers."""
    assert_same_work(ours | peers, sizes)
    nets = ours | peers | (more or {})
    times = in_turns(nets, rounds)
    times = {name: values / getattr(nets[name], "k", 1) for name, values in times.items()}
    others = [*peers, *(more or {})]
    ratios = {f"{a} / {b}": ratio(times[a], times[b]) for a in ours for b in others}
    return {"ms": medians(times), "ratio": ratios}


def main(config: Config) -> dict:
    if not jax_peers.installed():
        print("jax or optax is not installed: left out")
    if not importlib.util.find_spec("torchopt"):
        print("torchopt is not installed: left out")
    torch.set_num_threads(1)
    ours, peers = tiny()
    found = {
        "command": "python -m benchmarks.mlp",
        "n": config.rounds,
        "setting": f"MLP 2-20-2, batch {BATCHES[TINY]}, Adam, one thread, float32; torch.nn: "
        "fused Adam",
        **measure(ours, peers, config.rounds, TINY, {"scikit-learn": sklearn_step(TINY)}),
    }
    if config.deep_rounds:
        found["deep"] = {
            "n": config.deep_rounds,
            "setting": f"MLP of 100 hidden layers of 32 units, batch {BATCHES[DEEP]}, Adam, one "
            "thread, float32",
            **measure(*deep(), config.deep_rounds, DEEP),
        }
    if config.wide_rounds:
        torch.set_num_threads(os.cpu_count())
        found["wide"] = {
            "n": config.wide_rounds,
            "setting": f"MLP 3072-1024-1024-10, batch {BATCHES[WIDE]}, Adam, all cores, float32",
            **measure(*wide(), config.wide_rounds, WIDE),
        }
    write(config.results, found, *tables(found))
    return found


def tables(found: dict) -> list[Table]:
    """Return a Table for each net that was measured."""
    return [table(found), *[table(found[net]) for net in ("deep", "wide") if net in found]]


def table(found: dict) -> Table:
    """Return a row for each of ours: its time, and the ratios to the peers with quartiles."""
    pairs = [pair.split(" / ") for pair in found["ratio"]]
    ours, peers = (list(dict.fromkeys(pair[i] for pair in pairs)) for i in (0, 1))
    heads = [f"ratio to {peer} ({found['ms'][peer]:.3f} ms)" for peer in peers]
    rows = []
    for name in ours:
        ratios = (found["ratio"][f"{name} / {peer}"] for peer in peers)
        rows.append((name, f"{found['ms'][name]:.3f}", *map(with_quartiles, ratios), found["n"]))
    caption = f"One step of an {found['setting']}; median ratio of {found['n']} rounds (quartiles)."
    return table_of(("ours", "ms", *heads, "n"), rows, caption)


if __name__ == "__main__":
    command(Config, main)
