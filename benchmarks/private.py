"""A step of DP-SGD beside a plain one of ours, and beside Opacus' ghost clipping.

    python -m benchmarks.private            # writes results/benchmarks_private.json

Wide MLP 3072-1024-1024-10 and the fast CNN with GroupNorm of 8 groups in place of BatchNorm; batch
256, SGD, float32, one thread, eager on both sides. Every contestant is a process of its own, with
malloc as our scripts set it (malloc.py); they take turns (`timing.py`), and a ratio is the median
over the rounds with quartiles. A step of ours clips, draws the noise and updates; the one "without
noise" tells what the clipping costs. Opacus (`pip install -e ".[dp]"`) is left out where it is
not installed; before it is timed, both give the same clipped gradients. Memory is what a step adds
at its peak to the process, with malloc in its defaults.
"""

import ctypes
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.timing import apart, in_turns, medians, ratio, with_quartiles, write
from purenets import Model, make_step, optim, random, runs, train_state
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets import MLP, grad_fn, layers
from purenets.torch_nets.analysis.privacy import dp_grad_fn
from purenets.torch_nets.fast_cnn import FastCNN

BATCH, CLIP, NOISE, RATE = 256, 0.1, 1.0, 0.01
GELU = lambda: nn.GELU(approximate="tanh")


@dataclass(frozen=True)
class Config(Options):
    """Time a step of DP-SGD beside a plain one and beside Opacus."""

    rounds: int = option(20, "rounds in which all contestants take turns", positive)
    results: str = option("results/benchmarks_private.json", "JSON file for the numbers")


# --- the nets, ours and as modules ----------------------------------------------------------------


def fast_cnn() -> Model:
    return FastCNN(3, 10, norm=lambda n, **_: layers.GroupNorm(n, groups=8))


def mlp_module() -> nn.Module:
    names = ("fc1", "relu1", "fc2", "relu2", "fc3")
    sizes = (3072, 1024), None, (1024, 1024), None, (1024, 10)
    parts = (nn.Linear(*size) if size else nn.ReLU() for size in sizes)
    net = nn.Sequential()
    for name, part in zip(names, parts, strict=True):
        net.add_module(name, part)
    return net


def fast_cnn_module() -> nn.Module:
    """The fast CNN, whose logits are scaled by 1/256."""
    net, n_in = nn.Sequential(), 24
    net.add_module("first", nn.Conv2d(3, n_in, 2))
    net.add_module("gelu", GELU())
    for i, n in enumerate((64, 256, 256), start=1):
        group = nn.Sequential()
        for name, part in {
            "conv1": nn.Conv2d(n_in, n, 3, padding=1, bias=False),
            "pool": nn.MaxPool2d(2),
            "norm1": nn.GroupNorm(8, n),
            "gelu1": GELU(),
            "conv2": nn.Conv2d(n, n, 3, padding=1, bias=False),
            "norm2": nn.GroupNorm(8, n),
            "gelu2": GELU(),
        }.items():
            group.add_module(name, part)
        net.add_module(f"group{i}", group)
        n_in = n
    net.add_module("pool", nn.MaxPool2d(3))
    net.add_module("flatten", nn.Flatten())
    net.add_module("fc", nn.Linear(n_in, 10, bias=False))
    return net


class Scaled(nn.Module):
    """A module whose outputs are divided by 256, as those of `FastCNN`."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) / 256


NETS = {
    "wide MLP": (lambda: MLP(3072, [1024, 1024], 10), mlp_module, (3072,)),
    "fast CNN with GroupNorm": (fast_cnn, lambda: Scaled(fast_cnn_module()), (3, 32, 32)),
}


def data(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(0)
    x = torch.tensor(draw.normal(size=(BATCH, *shape)), dtype=torch.float32)
    return x, torch.tensor(draw.integers(0, 10, BATCH))


# --- contestants ----------------------------------------------------------------------------------


def ours(name: str, kind: str) -> Callable[[], dict]:
    """Return one step from the same state again and again; it returns the params.

    kind: "plain", "private" or "without noise".
    """
    make, _, shape = NETS[name]
    model, batch, optimizer = make(), data(shape), optim.sgd(RATE)
    noise = {"private": NOISE, "without noise": 0.0}
    grad = grad_fn(model) if kind == "plain" else dp_grad_fn(model, CLIP, noise[kind])
    step = make_step(grad, optimizer)
    state = train_state(*model.init(random.key(0)), optimizer, random.key(1))
    return lambda: step(state, batch)[0].params


def opacus(name: str, kind: str) -> Callable[[], dict]:
    """Return one step with Opacus' ghost clipping, from the same params as ours the first time."""
    from opacus import PrivacyEngine

    make, make_module, shape = NETS[name]
    module, (x, y) = make_module(), data(shape)
    prefix = "net." if isinstance(module, Scaled) else ""
    params, _ = make().init(random.key(0))
    module.load_state_dict({f"{prefix}{leaf}": p for leaf, p in params.items()})
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), BATCH)
    module, optimizer, criterion, _ = PrivacyEngine().make_private(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), RATE),
        criterion=nn.CrossEntropyLoss(),
        data_loader=loader,
        noise_multiplier=NOISE if kind == "private" else 0.0,
        max_grad_norm=CLIP,
        poisson_sampling=False,
        grad_sample_mode="ghost",
    )

    def call():
        optimizer.zero_grad()
        criterion(module(x), y).backward()
        optimizer.step()
        start = f"_module.{prefix}"
        return {leaf.removeprefix(start): p.detach() for leaf, p in module.named_parameters()}

    return call


def assert_same_work(name: str) -> None:
    """Without noise, both take the same first step."""
    mine, theirs = ours(name, "without noise")(), opacus(name, "without noise")()
    for leaf, p in mine.items():
        error = float((theirs[leaf] - p).abs().max())
        assert error < 1e-6, f"{name}: {leaf} differs from Opacus' by {error}"


def one_thread(build: Callable, *arguments) -> Callable[[], None]:
    """Return what `build` makes, on one thread and without its result, which stays in its
    process."""
    torch.set_num_threads(1)
    call = build(*arguments)

    def without_result():
        call()

    return without_result


# --- memory ---------------------------------------------------------------------------------------


def peak(build: Callable, *arguments) -> Callable[[], float]:
    """Return a function for the megabytes that a second call adds at its peak to its process."""
    call = one_thread(build, *arguments)
    call()

    def added() -> float:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
        before = _status("VmRSS")
        call()
        return _status("VmHWM") - before

    return added


def _status(name: str) -> float:
    """Return a size in /proc/self/status in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


# --- all ------------------------------------------------------------------------------------------


def contestants() -> dict[str, tuple[Callable, str]]:
    own = {f"ours: {kind}": (ours, kind) for kind in ("plain", "private", "without noise")}
    return own | ({"opacus": (opacus, "private")} if importlib.util.find_spec("opacus") else {})


def against_plain(name: str, rounds: int) -> dict:
    """Return the times and the memory of all contestants on a net, and the ratios to a plain
    step."""
    calls = {
        who: apart(one_thread, build, name, kind, memory_reused=True)
        for who, (build, kind) in contestants().items()
    }
    times = in_turns(calls, rounds)
    added = {
        who: apart(peak, build, name, kind, memory_reused=False)()
        for who, (build, kind) in contestants().items()
    }
    plain = "ours: plain"
    others = [who for who in times if who != plain]
    return {
        "milliseconds": medians(times),
        "megabytes": added,
        "time": {who: ratio(times[who], times[plain]) for who in others},
        "memory": {who: added[who] / added[plain] for who in others},
    }


def main(config: Config) -> dict:
    torch.set_num_threads(1)
    peer = importlib.util.find_spec("opacus") and importlib.metadata.version("opacus")
    results = {
        "command": "python -m benchmarks.private",
        "n": config.rounds,
        "opacus": peer,
        **runs.environment(),
        **runs.machine(),
        "nets": {},
    }
    for name in NETS:
        if peer:
            assert_same_work(name)
        results["nets"][name] = against_plain(name, config.rounds)
    write(config.results, results, table(results))
    return results


def table(results: dict) -> Table:
    """Return a row for each contestant: times of a plain step in time and in memory."""
    rows = [
        (name, who, with_quartiles(found["time"][who]), f"{found['memory'][who]:.2f}")
        for name, found in results["nets"].items()
        for who in found["time"]
    ]
    return table_of(("net", "step", "time / plain (quartiles)", "memory / plain"), rows)


if __name__ == "__main__":
    command(Config, main)
