"""The reduced VGG beside torch.nn: one training step of Adam, batches of 128.

    python -m benchmarks.cnn            # writes results/benchmarks_cnn.json

Each contestant trains in a process of its own with all cores, and they take turns, step by step:
allocators and caches of one do not help another. All have malloc as our scripts set it
(`core/runs/malloc.py`), measure loss and accuracy, and torch.nn has the fused Adam: in float32 and
bfloat16, eager and compiled, with channels last where that is faster. All begin with the same
params, and the losses of the first ten steps are compared: nobody does less work.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.timing import apart, in_turns, medians, ratio, with_quartiles, write
from benchmarks.twins import reduced_vgg
from purenets import make_step, optim, random, train_state
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets import CNN, grad_fn, jit
from purenets.torch_nets.precision import VARIANTS

PEER = "torch.nn: float32"
OURS = {  # by name: the variant of torch_nets.precision, and whether under jit
    "ours: float32": ("float32", False),
    "ours: float32, channels last": ("float32 channels_last", False),
    "ours: bfloat16, channels last": ("bfloat16 channels_last", False),
    "ours: bfloat16, channels last, jit": ("bfloat16 channels_last", True),
}
PEERS = {  # by name: bfloat16, channels last, compiled
    PEER: (False, False, False),
    "torch.nn: float32, channels last": (False, True, False),
    "torch.nn: float32, channels last, compiled": (False, True, True),
    "torch.nn: bfloat16, channels last": (True, True, False),
    "torch.nn: bfloat16, channels last, compiled": (True, True, True),
}


@dataclass(frozen=True)
class Config(Options):
    """Time a step of the reduced VGG beside torch.nn."""

    rounds: int = option(20, "rounds in which all contestants take turns", positive)
    batch_size: int = option(128, "images in a step", positive)
    results: str = option("results/benchmarks_cnn.json", "JSON file for the numbers")


def data(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(batch_size, 3, 32, 32)).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(draw.integers(0, 10, batch_size))


def ours(way: str, compiled: bool, batch_size: int) -> Callable[[], float]:
    """A step of ours that keeps its state, and returns the loss."""
    model, optimizer, batch = CNN(3, 10), optim.adam(), data(batch_size)
    state = train_state(*model.init(random.key(0)), optimizer, random.key(1))
    step = make_step(grad_fn(VARIANTS[way](model)), optimizer)
    step = jit(step) if compiled else step

    def call() -> float:
        nonlocal state
        state, metrics = step(state, batch)
        return float(metrics["loss"])

    return call


def theirs(
    bfloat16: bool, channels_last: bool, compiled: bool, batch_size: int
) -> Callable[[], float]:
    """The same with torch.nn and torch.optim."""
    params, buffers = CNN(3, 10).init(random.key(0))
    module = reduced_vgg()
    module.load_state_dict({**params, **buffers})
    x, y = data(batch_size)
    if channels_last:
        module, x = (part.to(memory_format=torch.channels_last) for part in (module, x))
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    net = torch.compile(module) if compiled else module

    def call() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = net(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        loss.backward()
        optimizer.step()
        (logits.detach().argmax(1) == y).float().mean()
        return float(loss.detach())

    return call


def contestants(size: int) -> dict[str, Callable[[], float]]:
    """Ours and the peers by name, each in a process of its own."""
    mine = {n: apart(ours, *how, size, memory_reused=True) for n, how in OURS.items()}
    return mine | {n: apart(theirs, *how, size, memory_reused=True) for n, how in PEERS.items()}


def assert_same_work(calls: dict[str, Callable[[], float]]) -> None:
    """The losses of ten steps from the same params: those of torch.nn within what bfloat16
    rounds.
    """
    losses = {name: np.array([call() for _ in range(10)]) for name, call in calls.items()}
    for name, values in losses.items():
        assert np.abs(values[0] - losses[PEER][0]) < 0.02, (
            f"{name}: another first loss, {values[0]}"
        )
        assert values[-1] < 0.5 * values[0], f"{name}: does not learn its batch, {values}"


def main(config: Config) -> dict:
    calls = contestants(config.batch_size)
    assert_same_work(calls)
    times = in_turns(calls, config.rounds)
    found = {
        "command": "python -m benchmarks.cnn",
        "n": config.rounds,
        "setting": f"reduced VGG, batch {config.batch_size}, Adam 1e-3, "
        f"{torch.get_num_threads()} threads",
        "ms": medians(times),
        "ratio": {f"{a} / {b}": ratio(times[a], times[b]) for a in OURS for b in PEERS},
    }
    write(config.results, found, table(found))
    return found


def table(found: dict) -> Table:
    """Return a row for each peer: its time, and the ratio of each of ours to it with quartiles."""
    ours = [name for name in found["ms"] if name.startswith("ours")]
    rows = []
    for peer in [name for name in found["ms"] if name not in ours]:
        ratios = (with_quartiles(found["ratio"][f"{name} / {peer}"]) for name in ours)
        rows.append((peer, f"{found['ms'][peer]:.0f}", *ratios))
    heads = [f"{name.removeprefix('ours: ')} ({found['ms'][name]:.0f} ms)" for name in ours]
    caption = f"One step of the {found['setting']}; ratio of ours to the peer, median of "
    caption += f"{found['n']} rounds (quartiles)."
    return table_of(("peer", "ms", *heads), rows, caption)


if __name__ == "__main__":
    command(Config, main)
