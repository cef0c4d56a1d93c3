"""What `jit` and `scan` cost and gain: the tiny MLP's step, eager, compiled and in compiled loops.

    python -m benchmarks.loops            # writes results/benchmarks_loops.json

MLP 2-20-2, batch 32, Adam, one thread. Contestants take turns (`timing.py`). Times to compile are
those of new processes without the compiler's caches, one after the other.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks import mlp
from benchmarks.timing import in_turns, medians, ratio, with_quartiles, write
from purenets import make_step, optim, scan, torch_nets
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, not_negative, option, positive
from purenets.torch_nets import pytorch_mlp

LENGTHS = (10, 100, 1000)


@dataclass(frozen=True)
class Config(Options):
    """Time compiled steps and loops."""

    rounds: int = option(20, "rounds in which all contestants take turns", positive)
    compilations: int = option(
        3, "times that each loop is compiled; 0 to leave it out", not_negative
    )
    results: str = option("results/benchmarks_loops.json", "JSON file for the numbers")


def contestants() -> dict[str, Callable]:
    """Return the calls that are timed; each knows the steps in a call as `k`."""
    adam = optim.adam(mlp.RATES[mlp.TINY])
    loops = {f"scan of {k}": mlp.in_torch(mlp.TINY, adam, torch_nets.jit, k) for k in LENGTHS}
    return {
        "eager": mlp.in_torch(mlp.TINY, adam),
        "jit": mlp.in_torch(mlp.TINY, adam, torch_nets.jit),
        "scan of 100, unroll 4": unrolled(adam, 100, 4),
        **loops,
    }


def unrolled(optimizer, k: int, unroll: int) -> Callable:
    """Return a compiled loop with several iterations in its body."""

    def make(model, optimizer):
        step = make_step(torch_nets.grad_fn(model, metrics={}), optimizer)
        return torch_nets.jit(lambda state, batches: scan(step, state, batches, unroll=unroll))

    return mlp.Ours(mlp.TINY, pytorch_mlp.MLP, torch.as_tensor, optimizer, make, k)


def microseconds(rounds: int) -> dict[str, dict]:
    """Return the microseconds of a step: the least and the median of the rounds."""
    nets = contestants()
    times = {name: 1e3 * ms / nets[name].k for name, ms in in_turns(nets, rounds).items()}
    return {
        name: {"least": float(t.min()), "median": float(np.median(t))} for name, t in times.items()
    }


def seconds_to_compile(length: int) -> float:
    """Return the seconds of the first call of a loop, in this process."""
    torch.set_num_threads(1)
    net = mlp.in_torch(mlp.TINY, optim.adam(mlp.RATES[mlp.TINY]), torch_nets.jit, length)
    begin = time.perf_counter()
    net()
    return time.perf_counter() - begin


def compiled_anew(length: int) -> float:
    """Return `seconds_to_compile` of a new process without caches."""
    code = f"from benchmarks.loops import seconds_to_compile; print(seconds_to_compile({length}))"
    environment = {**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout)


def compilation(n: int) -> dict:
    """Return the milliseconds to compile loops of each length, in turns, and their ratios."""
    times = {f"scan of {k}": [] for k in LENGTHS}
    for _ in range(n):
        for k in LENGTHS:
            times[f"scan of {k}"].append(1e3 * compiled_anew(k))
    times = {name: np.array(values) for name, values in times.items()}
    first, *others = times
    ratios = {f"{name} / {first}": ratio(times[name], times[first]) for name in others}
    return {"n": n, "ms": medians(times), "ratio": ratios}


def main(config: Config) -> dict:
    torch.set_num_threads(1)
    found = {
        "command": "python -m benchmarks.loops",
        "n": config.rounds,
        "microseconds": microseconds(config.rounds),
    }
    if config.compilations:
        found["compilation"] = compilation(config.compilations)
    write(config.results, found, *tables(found))
    return found


def tables(found: dict) -> list[Table]:
    """Return a Table of the contestants, and one of the loops that were compiled."""
    times = [
        (n, f"{t['least']:.1f}", f"{t['median']:.1f}") for n, t in found["microseconds"].items()
    ]
    header = ("", "least microseconds of a step", "median")
    steps = table_of(header, times, f"MLP 2-20-2, batch 32, Adam; {found['n']} rounds.")
    if "compilation" not in found:
        return [steps]
    times, ratios = found["compilation"]["ms"], found["compilation"]["ratio"]
    rows = [
        (name, f"{ms / 1e3:.1f}", with_quartiles(ratios[pair]) if pair in ratios else "")
        for name, ms in times.items()
        for pair in [f"{name} / scan of {LENGTHS[0]}"]
    ]
    header = ("", "seconds to compile", f"ratio to length {LENGTHS[0]} (quartiles)")
    return [steps, table_of(header, rows, f"Median of {found['compilation']['n']}.")]


if __name__ == "__main__":
    command(Config, main)
