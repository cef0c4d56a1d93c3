"""How far steps of ours are from what this machine could do at best, by operations and by bytes.

    python -m benchmarks.floors             # writes results/benchmarks_floors.json

A call computes so many floating-point operations (products and convolutions, `flops.py`), and has
to read its arguments and write its results: params and state of the optimizer, batch, gradients.
The floor is the longer of two times: the operations at the speed of the fastest large product of
that dtype, and the bytes at the speed of a large copy, both measured in the same run with as many
threads. What a small net takes beyond its floor is the cost of calls (`profile.py`).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks import mlp, toolbox
from benchmarks.flops import flops
from benchmarks.products import peak_gigaflops
from benchmarks.timing import in_turns, medians, write
from purenets import optim
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets import jit

GIGA = 1e9
COPIED = 1 << 26  # float32 elements of the copy that the speed of memory is measured by


@dataclass(frozen=True)
class Config(Options):
    """Time calls beside the least that this machine could take for them."""

    rounds: int = option(20, "rounds in which all calls take turns", positive)
    results: str = option("results/benchmarks_floors.json", "JSON file for the numbers")


class Work(NamedTuple):
    """A call and what it has to do.

    Args:
        call: what is timed.
        flops: floating-point operations of it.
        bytes: of its arguments and its results.
        dtype: of the products.
        k: steps in a call.
    """

    call: Callable
    flops: int
    bytes: int
    dtype: str = "float32"
    k: int = 1


def size_in_bytes(tree: Any) -> int:
    """Return the bytes of all arrays in containers of arrays."""
    if isinstance(tree, np.ndarray | torch.Tensor):
        return tree.nbytes
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple) else ()
    return sum(map(size_in_bytes, values))


def training(sizes: tuple, step: mlp.Ours, dtype: str = "float32") -> Work:
    """Return the work of a training step of an MLP, which reads and writes its state."""
    plain = mlp.in_torch(sizes, optim.adam(mlp.RATES[sizes]))
    moved = 2 * size_in_bytes(tuple(plain.state)) + size_in_bytes(plain.batch)
    return Work(step, flops(plain), moved, dtype, step.k)


def per_example(name: str, compiled: bool) -> Work:
    """Return the work of the gradients of all examples: the operations of the plain gradient, which
    is their mean, and all of them to write.
    """
    call = toolbox.ours(name, compiled)
    make, shape = toolbox.NETS[name]
    module, (x, y) = make(), toolbox.data(shape)
    moved = size_in_bytes((x, y)) + size_in_bytes(call())
    plain = flops(lambda: nn.functional.cross_entropy(module(x), y).backward())
    return Work(call, plain, moved)


def on_one_thread() -> dict[str, Work]:
    adam, tiny = optim.adam(mlp.RATES[mlp.TINY]), mlp.TINY
    scanned = mlp.in_torch(tiny, adam, jit, mlp.SCANNED)
    return {
        "MLP 2-20-2, NumPy": training(tiny, mlp.in_numpy(tiny, adam)),
        "MLP 2-20-2, a step of a scan": training(tiny, scanned),
        "per-example gradients, MLP": per_example("mlp", compiled=False),
        "per-example gradients, CNN": per_example("cnn", compiled=False),
        "per-example gradients, CNN, jit": per_example("cnn", compiled=True),
    }


def on_all_cores() -> dict[str, Work]:
    adam, wide = optim.adam(mlp.RATES[mlp.WIDE]), mlp.WIDE
    bfloat16 = mlp.in_torch(wide, adam, jit, bfloat16=True)
    return {
        "MLP 3072-1024-1024-10, jit": training(wide, mlp.in_torch(wide, adam, jit)),
        "MLP 3072-1024-1024-10, jit, bfloat16": training(wide, bfloat16, "bfloat16"),
    }


def gigabytes_a_second(rounds: int) -> float:
    """Return the speed of a large copy, what is read and what is written counted."""
    source, target = torch.zeros(COPIED), torch.zeros(COPIED)
    ms = in_turns({"copy": lambda: target.copy_(source)}, rounds)["copy"].min()
    return 2 * source.nbytes / GIGA / (ms / 1e3)


def measured(works: dict[str, Work], threads: int, rounds: int) -> list[dict]:
    """Return a row for each work, with its time and its floor in microseconds."""
    speed = gigabytes_a_second(rounds)
    peaks = {dtype: peak_gigaflops(dtype) for dtype in {work.dtype for work in works.values()}}
    times = medians(in_turns({name: work.call for name, work in works.items()}, rounds))
    rows = []
    for name, work in works.items():
        computing = 1e6 * work.flops / GIGA / peaks[work.dtype]
        moving = 1e6 * work.bytes / GIGA / speed
        rows.append(
            {
                "work": name,
                "threads": threads,
                "microseconds": 1e3 * times[name] / work.k,
                "flops": work.flops,
                "bytes": work.bytes,
                "gigaflops_peak": peaks[work.dtype],
                "gigabytes_a_second": speed,
                "floor": max(computing, moving),
                "by": "operations" if computing > moving else "bytes",
                "n": rounds,
            }
        )
    return rows


def main(config: Config) -> dict:
    torch.set_num_threads(1)
    rows = measured(on_one_thread(), 1, config.rounds)
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    rows += measured(on_all_cores(), cores, config.rounds)
    found = {"command": "python -m benchmarks.floors", "n": config.rounds, "rows": rows}
    write(config.results, found, table(rows))
    return found


def table(rows: list[dict]) -> Table:
    """Return a row for each work: its time, its floor, and how many times the floor it takes."""
    cells = []
    for row in rows:
        times = (f"{row['microseconds']:.1f}", f"{row['floor']:.1f}", row["by"])
        work = (f"{row['flops'] / 1e6:.3g}", f"{row['bytes'] / 1e6:.3g}")
        factor = f"{row['microseconds'] / row['floor']:.3g}"
        cells.append((row["work"], row["threads"], *work, *times, factor, row["n"]))
    header = ("call", "threads", "million operations", "MB", "microseconds", "floor (microseconds)")
    return table_of((*header, "floor by", "times the floor", "n"), cells)


if __name__ == "__main__":
    command(Config, main)
