"""How time and memory of a training step grow over width, batch, depth, length and members, by a
factor of 100.

    python -m benchmarks.growth  # writes results/benchmarks_growth.json and docs/figures/growth.png

Every point is measured in a process of its own, ours (eager) and torch.nn in turns: the median
milliseconds of a step, and by how many MiB the process's largest memory grows while it steps.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.ticker import NullFormatter
from torch import nn

from benchmarks import rnn
from benchmarks.timing import apart, save_figure, write
from purenets import make_step, optim, random, runs, train_state
from purenets.core.metrics import accuracy
from purenets.core.report import plots
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets import MLP, ensemble, grad_fn, stack_states

AXES = {
    "width": (8, 25, 80, 250, 800),
    "batch": (10, 32, 100, 320, 1000),
    "depth": (1, 3, 10, 32, 100),
    "length": (4, 13, 40, 126, 400),
    "members": (1, 3, 10, 32, 100),
}
WHAT = {
    "width": "units of both hidden layers of an MLP, batch 100",
    "batch": "batch of an MLP 64-256-256-10",
    "depth": "hidden layers of 32 units of an MLP, batch 100",
    "length": "T of the vanilla RNN, 128 units, batch 128",
    "members": "members of an ensemble of MLPs 2-20-2, batch 32 each (torch.nn: one by one)",
}


@dataclass(frozen=True)
class Config(Options):
    """Measure how a training step grows."""

    steps: int = option(30, "steps at each point", positive)
    results: str = option("results/benchmarks_growth.json", "JSON file for the numbers")
    figure: str = option("docs/figures/growth.png", "PNG of the curves")


def shape_of(axis: str, value: int) -> tuple[list[int], int]:
    """The sizes of the MLP at a point, and its batch."""
    return {
        "width": ([64, value, value, 10], 100),
        "batch": ([64, 256, 256, 10], value),
        "depth": ([64, *[32] * value, 10], 100),
        "members": ([2, 20, 2], 32),
    }[axis]


def ours(axis: str, value: int) -> Callable[[], object]:
    if axis == "length":
        return rnn.Ours(value)
    sizes, n = shape_of(axis, value)
    model, optimizer = MLP(sizes[0], sizes[1:-1], sizes[-1]), optim.adam(1e-3)
    step, batch = make_step(grad_fn(model), optimizer), batch_of(sizes, n)
    params = model.init(random.key(0))[0]
    state = train_state(params, {}, optimizer, random.key(1))
    if axis == "members":
        step, state = ensemble(step), stack_states([state] * value)
        batch = tuple(part.expand(value, *part.shape).contiguous() for part in batch)

    def call():
        nonlocal state
        state, _ = step(state, batch)

    return call


def peer(axis: str, value: int) -> Callable[[], object]:
    if axis == "length":
        return rnn.Twin(value)
    sizes, n = shape_of(axis, value)
    nets = [net_of(sizes) for _ in range(value if axis == "members" else 1)]
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3, fused=True) for net in nets]
    x, y = batch_of(sizes, n)

    def call():
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            logits = net(x)
            nn.functional.cross_entropy(logits, y).backward()
            optimizer.step()
            accuracy(logits.detach(), y)  # ours measures it too

    return call


def net_of(sizes: list[int]) -> nn.Sequential:
    layers = [
        part for i in range(1, len(sizes)) for part in (nn.Linear(*sizes[i - 1 : i + 1]), nn.ReLU())
    ]
    return nn.Sequential(*layers[:-1])


def batch_of(sizes: list[int], n: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(n, sizes[0])).astype(np.float32)
    return torch.tensor(x), torch.tensor(draw.integers(0, sizes[-1], n))


def point(
    backend: Callable, axis: str, value: int, steps: int
) -> Callable[[], tuple[float, float]]:
    """The function that measures a point: (median milliseconds of a step, MiB)."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    call = backend(axis, value)

    def measured() -> tuple[float, float]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = []
        for _ in range(steps):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        return 1e3 * float(np.median(times)), grown / 1024

    return measured


def curves_of(axis: str, steps: int) -> dict:
    """The points of one axis, and the exponent of the last half of each curve of times (1 is
    linear).
    """
    found = {"values": list(AXES[axis])}
    for name, backend in (("ours", ours), ("torch.nn", peer)):
        points = [
            apart(point, backend, axis, value, steps, memory_reused=False)() for value in AXES[axis]
        ]
        ms, mib = (list(values) for values in zip(*points, strict=True))
        tail = np.log(AXES[axis][-3:]), np.log(ms[-3:])
        found[name] = {"ms": ms, "mib": mib, "exponent": float(np.polyfit(*tail, 1)[0])}
    return found


def draw(found: dict):
    """Milliseconds above, MiB below; a column for each axis."""
    figure, axes = plots.panels(2, len(found), 3.3, 2.7)
    for column, (axis_name, curve) in enumerate(found.items()):
        for row, (what, unit) in enumerate((("ms", "ms a step"), ("mib", "MiB more"))):
            axis = axes[row, column]
            for i, name in enumerate(("ours", "torch.nn")):
                style = plots.MARKERS[i] + plots.LINES[i]
                values = np.maximum(curve[name][what], 0.05)
                axis.plot(curve["values"], values, style, color=plots.COLORS[i], label=name)
            axis.set(
                xscale="log", yscale="log", xlabel=axis_name, ylabel=unit if column == 0 else ""
            )
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_major_formatter("{x:g}")
                scale.set_minor_formatter(NullFormatter())
    axes[0, 0].legend(frameon=False)
    return figure


def main(config: Config) -> dict:
    curves = {axis: curves_of(axis, config.steps) for axis in AXES}
    about = {
        "command": "python -m benchmarks.growth",
        "n": config.steps,
        **runs.environment(),
        **runs.machine(),
    }
    save_figure(draw(curves), config.figure)
    write(config.results, about | {"curves": curves}, table(curves, config.steps))
    return curves


def table(curves: dict, steps: int) -> Table:
    """Return a row for each axis: times and memory at its smallest and its largest value."""
    header = (
        *("axis", "from, to", "ours, ms", "torch.nn, ms"),
        *("exponents", "ours, MiB", "torch.nn, MiB"),
    )
    how = f"Median of {steps} steps, one thread, eager"
    caption = f"{how}; exponent: of the time over the last factor of 10."
    return table_of(header, [cells(axis, found) for axis, found in curves.items()], caption)


def cells(axis: str, found: dict) -> tuple[str, ...]:
    """Return the row of an axis."""
    both = [found["ours"], found["torch.nn"]]
    return (
        WHAT[axis],
        f"{found['values'][0]}, {found['values'][-1]}",
        *(f"{c['ms'][0]:.2f}, {c['ms'][-1]:.2f}" for c in both),
        ", ".join(f"{c['exponent']:.2f}" for c in both),
        *(f"{c['mib'][0]:.0f}, {c['mib'][-1]:.0f}" for c in both),
    )


if __name__ == "__main__":
    command(Config, main)
