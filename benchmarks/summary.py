"""What all benchmarks found, against what they are meant to reach: one table, one JSON file, one
picture.

    python -m benchmarks.summary  # reads results/benchmarks_*.json, writes results/benchmarks.json

A ratio is ours to the peer's, so below 1 is faster; the bar is the largest that is meant to be.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import save_figure, with_quartiles, write
from purenets import runs
from purenets.core.report import plots
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option
from scripts.shared import result_files
from scripts.shared.result_files import ORIGIN, origin_cells


class Bar(NamedTuple):
    """A work, its peer, the largest ratio that is meant to be, and where it is found."""

    work: str
    peer: str
    at_most: float
    file: str
    path: tuple[str, ...]
    inverse: bool = False  # the file has how many times as fast ours is


MLP, FAST = "MLP 2-20-2, batch 32, Adam", "numpy, fast_step"
VGG = "ours: bfloat16, channels_last"
BARS = [
    Bar(
        f"{MLP}: NumPy by hand",
        "torch.nn, fused Adam",
        0.35,
        "mlp",
        ("ratio", f"{FAST} / torch.nn"),
    ),
    Bar(f"{MLP}: NumPy by hand", "scikit-learn", 0.35, "mlp", ("ratio", f"{FAST} / scikit-learn")),
    Bar(
        f"{MLP}: torch, eager",
        "torch.nn, fused Adam",
        1.0,
        "mlp",
        ("ratio", "torch, fast_step / torch.nn"),
    ),
    Bar(
        f"{MLP}: torch, compiled",
        "JAX jit, optax",
        1.0,
        "mlp",
        ("ratio", "torch, flat, compile_for / JAX jit"),
    ),
    Bar(
        f"{MLP}: torch, scan",
        "JAX lax.scan",
        1.3,
        "mlp",
        ("ratio", "torch, scan of 20, compile_for, C++ / JAX lax.scan"),
    ),
    Bar(
        "MLP 3072-1024-1024-10, batch 128: compiled",
        "torch.nn, fused Adam, compiled",
        1.0,
        "mlp",
        ("wide", "ratio", "torch, compiled / torch.nn, compiled"),
    ),
    Bar(
        "RNN T = 50, batch 128: compiled",
        "nn.RNN",
        0.6,
        "rnn",
        ("one_step", "ratio", "compiled / nn.RNN"),
    ),
    Bar(
        "RNN T = 50, batch 128: compiled",
        "JAX jit",
        1.2,
        "rnn",
        ("one_step", "ratio", "compiled / JAX jit"),
    ),
    Bar(
        "reduced VGG, batch 128",
        "nn.Module, bfloat16, channels-last, compiled",
        1.0,
        "cnn",
        ("ratio", f"{VGG} / torch.nn: bfloat16, channels_last, compiled"),
    ),
    Bar(
        "per-example gradients, CNN",
        "Opacus",
        0.7,
        "toolbox",
        ("per-example cnn", "times as fast"),
        True,
    ),
    Bar(
        "per-example gradients, MLP",
        "Opacus",
        0.7,
        "toolbox",
        ("per-example mlp", "times as fast"),
        True,
    ),
    Bar(
        "ensemble of 64 MLPs",
        "torch.nn, one by one",
        0.05,
        "toolbox",
        ("ensemble of 64", "times as fast"),
        True,
    ),
]


@dataclass(frozen=True)
class Config(Options):
    """Put all benchmarks into one table."""

    folder: str = option("results", "folder of benchmarks_*.json")
    figure: str = option("docs/figures/benchmarks.png", "PNG of the ratios")


def found(folder: Path) -> list[dict]:
    """A row for each bar whose file has it."""
    rows = []
    for bar in BARS:
        path = folder / f"benchmarks_{bar.file}.json"
        inner = result_files.read(path) if path.exists() else {}
        about = {name: inner.get(name) for name in ("command", "n", "machine", "git_commit")}
        for name in bar.path:
            inner = inner.get(name, {})
            about["n"] = inner.get("n", about["n"])
        if not inner:
            print(f"{bar.work} / {bar.peer}: not in {path}")
            continue
        low, high = inner["quartiles"]
        ratio = {"median": inner["median"], "quartiles": [low, high]}
        if bar.inverse:
            ratio = {"median": 1 / inner["median"], "quartiles": [1 / high, 1 / low]}
        rows.append({"work": bar.work, "peer": bar.peer, "at_most": bar.at_most, **ratio, **about})
    return rows


def table(rows: list[dict]) -> Table:
    """Return a row for each bar: the ratio, the bar, and whether it was missed."""
    cells = []
    for row in rows:
        met = "" if row["median"] <= row["at_most"] else " (missed)"
        bar = f"{row['at_most']:g}{met}"
        cells.append(
            (row["work"], row["peer"], with_quartiles(row), bar, row["n"], *origin_cells([row]))
        )
    header = ("work", "peer", "ratio: ours / peer, median (quartiles)", "meant to be at most", "n")
    return table_of((*header, *ORIGIN), cells)


def draw(rows: list[dict]):
    """A dot with quartiles for each ratio, and a mark for its bar; left of 1 ours is faster."""
    figure, axes = plots.panels(1, 1, 9, 0.8 + 0.4 * len(rows))
    axis = axes[0, 0]
    for i, row in enumerate(reversed(rows)):
        met = row["median"] <= row["at_most"]
        color = plots.COLORS[0 if met else 3]
        axis.plot(row["quartiles"], [i, i], "-", color=color, linewidth=2)
        axis.plot(row["median"], i, "o" if met else "D", color=color, markersize=7)
        axis.plot(row["at_most"], i, "|", color="black", markersize=14, markeredgewidth=2)
    axis.axvline(1, color="black", linewidth=1)
    labels = [f"{row['work']}\n/ {row['peer']}" for row in reversed(rows)]
    axis.set(xscale="log", xlabel="time of ours / time of the peer (bar: meant to be at most)")
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    return figure


def main(config: Config) -> list[dict]:
    folder = Path(config.folder)
    rows = found(folder)
    save_figure(draw(rows), config.figure)
    n = min(row["n"] for row in rows)
    about = {
        "command": "python -m benchmarks.summary",
        "n": n,
        **runs.environment(),
        **runs.machine(),
    }
    write(str(folder / "benchmarks.json"), about | {"rows": rows}, table(rows))
    return rows


if __name__ == "__main__":
    command(Config, main)
