"""What all benchmarks found, against what they are meant to reach: one table, one JSON file, one
picture.

    python -m benchmarks.summary  # reads results/benchmarks_*.json, writes results/benchmarks.json

A ratio is our time to that of the fastest peer, so below 1 is faster; the bar is the largest that
is meant to be.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks import cnn
from benchmarks.timing import save_figure, with_quartiles, write
from purenets import runs
from purenets.core.report import plots
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option
from scripts.shared import result_files
from scripts.shared.result_files import ORIGIN, origin_cells


class Bar(NamedTuple):
    """The largest ratio that ours is meant to have to the fastest of its peers.

    Args:
        work: what is timed.
        ours: the contestant of ours.
        peers: the names of the peers; those that were not measured are passed over.
        at_most: the ratio.
        file: results/benchmarks_{file}.json.
        section: the entries below which the file has "ms" and "ratio".
    """

    work: str
    ours: str
    peers: tuple[str, ...]
    at_most: float
    file: str
    section: tuple[str, ...] = ()


TINY, WIDE = "MLP 2-20-2, batch 32", "MLP 3072-1024-1024-10, batch 128"
JAX = ("JAX jit, dict", "JAX jit, one vector")
OPACUS = ("opacus, hooks", "opacus, functorch", "opacus, ew")
BARS = [
    Bar(TINY, "numpy", ("torch.nn",), 0.30, "mlp"),
    Bar(TINY, "torch, eager", ("torch.nn",), 0.95, "mlp"),
    Bar(TINY, "torch, jit", JAX, 1.0, "mlp"),
    Bar(
        TINY,
        "torch, jit, scan of 1000",
        ("JAX lax.scan, dict", "JAX lax.scan, one vector"),
        1.2,
        "mlp",
    ),
    Bar(f"{TINY}: compile time", "scan of 1000", ("scan of 10",), 1.5, "loops", ("compilation",)),
    Bar("MLP, 100 hidden layers", "torch, eager", ("torch.nn",), 1.0, "mlp", ("deep",)),
    Bar(WIDE, "torch, eager", ("torch.nn",), 1.1, "mlp", ("wide",)),
    Bar(WIDE, "torch, jit", ("torch.nn, compiled",), 0.9, "mlp", ("wide",)),
    Bar(
        WIDE,
        "torch, jit, bfloat16",
        ("torch.nn, compiled", "torch.nn, compiled, bfloat16"),
        0.9,
        "mlp",
        ("wide",),
    ),
    Bar(WIDE, "torch, jit", ("JAX jit",), 1.0, "mlp", ("wide",)),
    Bar("RNN, T = 50, batch 128", "loop, jit", ("nn.RNN",), 1.0, "rnn", ("one_step",)),
    Bar("RNN, T = 50, batch 128", "fused, jit", ("nn.RNN",), 0.7, "rnn", ("one_step",)),
    Bar("RNN, T = 50, batch 128", "fused, jit", ("JAX jit",), 1.1, "rnn", ("one_step",)),
    Bar("reduced VGG, batch 128", "ours: bfloat16, channels last", tuple(cnn.PEERS), 0.9, "cnn"),
    Bar("per-example gradients, CNN", "ours", OPACUS, 0.8, "toolbox", ("per-example cnn",)),
    Bar("per-example gradients, MLP", "ours", OPACUS, 0.8, "toolbox", ("per-example mlp",)),
    *(
        Bar(
            f"per-example gradients, {net}, under jit",
            "ours",
            OPACUS,
            0.8,
            "toolbox",
            (f"per-example {net.lower()} under jit",),
        )
        for net in ("CNN", "MLP")
    ),
    Bar("64 MLPs 2-20-2", "ours", ("torch.nn, one by one",), 0.012, "toolbox", ("ensemble of 64",)),
]


@dataclass(frozen=True)
class Config(Options):
    """Put all benchmarks into one table."""

    folder: str = option("results", "folder of benchmarks_*.json")
    figure: str = option("docs/figures/benchmarks.png", "PNG of the ratios")


def found(folder: Path) -> list[dict]:
    """Return a row for each bar whose file has it."""
    rows = []
    for bar in BARS:
        path = folder / f"benchmarks_{bar.file}.json"
        inner = result_files.read(path) if path.exists() else {}
        about = {name: inner.get(name) for name in ("command", "n", "machine", "git_commit")}
        for name in bar.section:
            inner = inner.get(name, {})
            about["n"] = inner.get("n", about["n"])
        ratios = inner.get("ratio", {})
        peers = [peer for peer in bar.peers if f"{bar.ours} / {peer}" in ratios]
        if not peers:
            print(f"{bar.work}, {bar.ours}: not in {path}")
            continue
        peer = min(peers, key=inner["ms"].get)
        row = {"work": bar.work, "ours": bar.ours, "peer": peer, "at_most": bar.at_most}
        rows.append({**row, **ratios[f"{bar.ours} / {peer}"], **about})
    return rows


def table(rows: list[dict]) -> Table:
    """Return a row for each bar: the ratio, the bar, and whether it was missed."""
    cells = []
    for row in rows:
        met = "" if row["median"] <= row["at_most"] else " (missed)"
        names = (row["work"], row["ours"], row["peer"])
        bar = f"{row['at_most']:g}{met}"
        cells.append((*names, with_quartiles(row), bar, row["n"], *origin_cells([row])))
    header = ("work", "ours", "fastest peer", "ratio: ours / peer, median (quartiles)")
    return table_of((*header, "target", "n", *ORIGIN), cells)


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
    labels = [f"{row['work']}\n{row['ours']} / {row['peer']}" for row in reversed(rows)]
    axis.set(xscale="log", xlabel="time of ours / time of the peer (bar: target)")
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
