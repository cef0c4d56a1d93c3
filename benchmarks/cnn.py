"""The reduced VGG beside torch.nn: one training step of Adam, batches of 128.

    python -m benchmarks.cnn            # writes results/benchmarks_cnn.json

Each contestant trains in a process of its own with all cores, and they take turns, step by step:
allocators and caches of one do not help another. Ours run as in our scripts, with memory reused
(`core/runs/malloc.py`); torch.nn once in its defaults and once with the same setting. All begin
with the same params, and the losses of the first ten steps are compared: nobody does less work.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.timing import apart, in_turns, medians, ratio, with_quartiles, write
from benchmarks.twins import reduced_vgg
from purenets import make_step, optim, random, runs, train_state
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets import CNN, grad_fn, jit
from purenets.torch_nets.precision import VARIANTS

OURS, PEER = "ours: bfloat16, channels_last", "torch.nn"
BFLOAT16 = "torch.nn: bfloat16, channels_last"


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


def theirs(bfloat16: bool, compiled: bool, batch_size: int) -> Callable[[], float]:
    """The same with torch.nn and torch.optim."""
    params, buffers = CNN(3, 10).init(random.key(0))
    module = reduced_vgg()
    module.load_state_dict({**params, **buffers})
    x, y = data(batch_size)
    if bfloat16:
        module, x = (part.to(memory_format=torch.channels_last) for part in (module, x))
    optimizer = torch.optim.Adam(module.parameters())
    net = torch.compile(module) if compiled else module

    def call() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = net(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return call


def contestants(size: int) -> dict[str, Callable[[], float]]:
    way = "bfloat16 channels_last"
    return {
        OURS: apart(ours, way, False, size, memory_reused=True),
        f"{OURS}, compiled": apart(ours, way, True, size, memory_reused=True),
        PEER: apart(theirs, False, False, size, memory_reused=False),
        f"{PEER}, memory reused": apart(theirs, False, False, size, memory_reused=True),
        BFLOAT16: apart(theirs, True, False, size, memory_reused=False),
        f"{BFLOAT16}, memory reused": apart(theirs, True, False, size, memory_reused=True),
        f"{BFLOAT16}, compiled": apart(theirs, True, True, size, memory_reused=False),
        f"{BFLOAT16}, compiled, memory reused": apart(theirs, True, True, size, memory_reused=True),
    }


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
    peers = [name for name in calls if name.startswith(PEER)]
    found = {
        "command": "python -m benchmarks.cnn",
        "n": config.rounds,
        **runs.environment(),
        **runs.machine(),
        "setting": f"reduced VGG, batch {config.batch_size}, Adam 1e-3, "
        f"{torch.get_num_threads()} threads",
        "ms": medians(times),
        "ratio": {
            f"{name} / {peer}": ratio(times[name], times[peer])
            for name in calls
            if name.startswith(OURS)
            for peer in peers
        },
    }
    write(config.results, found, table(found, peers))
    return found


def table(found: dict, peers: list[str]) -> Table:
    """Return a row for each peer: its time, and the ratio of ours to it with quartiles."""
    names = (OURS, f"{OURS}, compiled")
    ours = ", ".join(
        f"{found['ms'][name]:.0f} ms ({name.removeprefix('ours: ')})" for name in names
    )
    caption = f"One step of the {found['setting']}; median of {found['n']} rounds. Ours: {ours}."
    rows = []
    for peer in peers:
        ratios = (found["ratio"][f"{name} / {peer}"] for name in names)
        rows.append((peer, f"{found['ms'][peer]:.0f}", *map(with_quartiles, ratios)))
    header = ("peer", "ms", "ratio of ours to it (quartiles)", "of ours compiled")
    return table_of(header, rows, caption)


if __name__ == "__main__":
    command(Config, main)
