"""The MLP 2-20-2 beside torch.nn and scikit-learn: one training step of Adam, batches of 32.

    python -m benchmarks.mlp            # writes results/benchmarks_mlp.json

All contestants take turns, round by round, in one process on one thread. Ours end within 1e-5 of torch.nn's
params after 100 steps, which is asserted first: nobody does less work.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from torch import nn

import numpy_nets
import torch_nets
from benchmarks.timing import in_turns, medians, ratio, with_quartiles, write
from core import optim, random, run, tree
from core.config import Options, option, positive
from core.config import run as run_script
from core.train import make_step, train_state
from numpy_nets import mlp_numpy
from torch_nets import pytorch_mlp, to_numpy

BATCH, RATE = 32, 1e-2


@dataclass(frozen=True)
class Config(Options):
    """Time the MLP 2-20-2 beside its peers."""

    rounds: int = option(30, "rounds in which all contestants take turns", positive)
    results: str = option("results/benchmarks_mlp.json", "JSON file for the numbers")


def data() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(BATCH, 2)).astype(np.float32)
    return x, (x.sum(axis=1) > 0).astype(np.int64)


def first_params() -> dict:
    return to_numpy(pytorch_mlp.MLP(2, [20], 2).init(random.key(0))[0])


class Ours:
    """A step of ours, that keeps its state."""

    def __init__(self, world, MLP, convert, optimizer, wrap: Callable = lambda step: step):
        model = MLP(2, [20], 2)
        self.batch = tuple(map(convert, data()))
        self.state = train_state(tree.map(convert, first_params()), {}, optimizer, random.key(1))
        self.step = wrap(make_step(world.grad_fn(model), optimizer))

    def __call__(self):
        self.state, _ = self.step(self.state, self.batch)

    def params(self) -> dict:
        return to_numpy(self.state.params)


class Torch:
    """What one would write with torch.nn and torch.optim."""

    def __init__(self):
        self.net = nn.Sequential()
        for name, layer in (("fc1", nn.Linear(2, 20)), ("relu1", nn.ReLU()), ("fc2", nn.Linear(20, 2))):
            self.net.add_module(name, layer)
        self.net.load_state_dict(tree.map(torch.tensor, first_params()))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=RATE, fused=True)
        self.x, self.y = map(torch.tensor, data())

    def __call__(self):
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.net(self.x), self.y).backward()
        self.optimizer.step()

    def params(self) -> dict:
        return to_numpy(dict(self.net.named_parameters()))


def sklearn_step() -> Callable[[], None]:
    net = MLPClassifier([20], learning_rate_init=RATE, batch_size=BATCH, alpha=0.0)
    x, y = data()
    return lambda: net.partial_fit(x, y, classes=[0, 1])


def contestants() -> dict:
    adam, flat = optim.adam(RATE), optim.flat(optim.adam(RATE))
    numpy, torch_ = (numpy_nets, mlp_numpy.MLP, np.asarray), (torch_nets, pytorch_mlp.MLP, torch.as_tensor)
    return {
        "numpy": Ours(*numpy, adam),
        "numpy, flat": Ours(*numpy, flat),
        "torch.func, eager": Ours(*torch_, adam),
        "torch.func, eager, flat": Ours(*torch_, flat),
        "torch.func, compiled": Ours(*torch_, adam, torch_nets.jit),
        "torch.nn": Torch(),
    }


def assert_same_work(nets: dict) -> None:
    """After 100 steps all params are those of torch.nn."""
    for net in nets.values():
        for _ in range(100):
            net()
    expected = nets["torch.nn"].params()
    for name, net in nets.items():
        error = max(float(np.abs(leaf - expected[k]).max()) for k, leaf in net.params().items())
        assert error < 1e-5, f"{name}: params differ from torch.nn's by {error}"


def main(config: Config) -> dict:
    torch.set_num_threads(1)
    nets = contestants()
    assert_same_work(nets)
    times = in_turns({**nets, "scikit-learn": sklearn_step()}, config.rounds)
    ours = [name for name in nets if name != "torch.nn"]
    found = {
        "command": "python -m benchmarks.mlp",
        "n": config.rounds,
        **run.environment(),
        **run.machine(),
        "setting": f"MLP 2-20-2, batch {BATCH}, Adam {RATE}, one thread, float32; torch.nn with fused Adam",
        "ms": medians(times),
        "ratio": {
            f"{name} / {peer}": ratio(times[name], times[peer])
            for name in ours
            for peer in ("torch.nn", "scikit-learn")
        },
    }
    write(config.results, found, markdown(found, ours))
    return found


def markdown(found: dict, ours: list[str]) -> str:
    """A row for each of ours: its time, and the ratio to both peers with quartiles."""
    peers = ("torch.nn", "scikit-learn")
    lines = [
        f"One step of an {found['setting']}; median ratio of {found['n']} rounds (quartiles).\n",
        f"| ours | ms | {' | '.join(f'ratio to {peer}' for peer in peers)} |",
        "|---|---|---|---|",
    ]
    for name in ours:
        ratios = (found["ratio"][f"{name} / {peer}"] for peer in peers)
        cells = map(with_quartiles, ratios)
        lines.append(f"| {name} | {found['ms'][name]:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_script(Config, main)
