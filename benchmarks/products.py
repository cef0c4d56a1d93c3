"""Matrix products in float32: oneDNN, which ours take (torch_nets/fast/onednn.py), beside torch's
own, by MKL.

    python -m benchmarks.products            # writes results/benchmarks_products.json

Each product, and those of its two gradients, on one thread and on all cores; both take turns
(`timing.py`).
"""

import os
from dataclasses import dataclass

import torch

from benchmarks.timing import in_turns, medians, ratio, with_quartiles, write
from purenets import UserError, runs
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets.fast import matmul, onednn

SIZES = (
    (128, 128, 128),
    (128, 784, 100),
    (200, 3072, 100),
    (128, 1024, 1024),
    (128, 3072, 1024),
)  # m, k, n


@dataclass(frozen=True)
class Config(Options):
    """Time float32 products by oneDNN beside torch's own."""

    rounds: int = option(20, "rounds in which both take turns", positive)
    results: str = option("results/benchmarks_products.json", "JSON file for the numbers")


def one(size: tuple[int, int, int], threads: int, rounds: int) -> dict:
    """A layer's three products: forward, and the gradients by input and weights."""
    m, k, n = size
    torch.set_num_threads(threads)
    x, weight, dy = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)

    def layer(multiply):
        return lambda: (multiply(x, weight.mT), multiply(dy, weight), multiply(dy.mT, x))

    contestants = {"oneDNN": layer(onednn.onednn_matmul), "torch": layer(torch.mm)}
    for mine, theirs in zip(contestants["oneDNN"](), contestants["torch"](), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-2), f"{size}: the products differ"
    times = in_turns(contestants, rounds)
    found = medians(times)
    gigaflops = {name: 6e-6 * m * k * n / ms for name, ms in found.items()}
    return {
        "size": list(size),
        "threads": threads,
        "ms": found,
        "gigaflops": gigaflops,
        "ratio": ratio(times["oneDNN"], times["torch"]),
    }


def main(config: Config) -> dict:
    if not matmul.ONEDNN:
        raise UserError("benchmarks.products: this torch has no oneDNN for float32 products")
    threads = sorted({1, os.cpu_count() or 1})
    found = {
        "command": "python -m benchmarks.products",
        "n": config.rounds,
        **runs.environment(),
        **runs.machine(),
        "products": [one(size, n, config.rounds) for n in threads for size in SIZES],
    }
    write(config.results, found, table(found))
    return found


def peak_gigaflops(dtype: str, size: int = 2048, rounds: int = 5) -> float:
    """Return the speed of the fastest large square product in a dtype, in 10^9 operations a second:
    what this machine reaches at most, by the best of torch's and oneDNN's kernels and rounds."""
    a, b = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
    kernels = {"torch": lambda: a @ b}
    if matmul.ONEDNN and dtype == "float32":
        kernels["oneDNN"] = lambda: onednn.onednn_matmul(a, b)
    milliseconds = min(times.min() for times in in_turns(kernels, rounds).values())
    return float(2e-6 * size**3 / milliseconds)


def table(found: dict) -> Table:
    """Return a row for each size and number of threads."""
    header = (
        *("m x k x n", "threads", "torch (GFLOP/s)", "oneDNN (GFLOP/s)"),
        *("ratio of times (quartiles)", "n"),
    )
    rows = []
    for row in found["products"]:
        speeds = (f"{row['gigaflops'][name]:.0f}" for name in ("torch", "oneDNN"))
        size = " x ".join(map(str, row["size"]))
        rows.append((size, row["threads"], *speeds, with_quartiles(row["ratio"]), found["n"]))
    return table_of(header, rows)


if __name__ == "__main__":
    command(Config, main)
