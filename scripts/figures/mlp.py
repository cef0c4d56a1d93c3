"""Figures of Part I: both MLPs on the same data sets.

    python scripts/figures/mlp.py   # curves and boundaries, from results/part1_sets.json

Functions return a `matplotlib.figure.Figure`. `rows` are the rows of the JSON file of
scripts/compare_mlps.py, one for each case and backend; `pairs` are its live results, {set:
{backend: Result}}.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # runs from an unpacked copy without install

import numpy as np
from matplotlib.figure import Figure

from purenets import Params
from purenets.core.report import plots
from purenets.core.report.plots import COLORS, LINES, MARKERS, panels, save
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option
from purenets.data import Dataset
from scripts import compare_mlps
from scripts.compare_mlps import BACKENDS
from scripts.shared import result_files
from scripts.shared.mlp import CURVES
from scripts.shared.schemas import COMPARISON


def points(pairs: dict, columns: int = 3) -> Figure:
    """Draw the training and test points of each data set."""
    tasks = {name: next(iter(results.values())).task for name, results in pairs.items()}
    rows = -(-len(tasks) // columns)
    figure, axes = panels(rows, columns, 3.8, 3.5)
    for axis in axes.flat[len(tasks) :]:
        axis.axis("off")
    for axis, (name, task) in zip(axes.flat, tasks.items(), strict=False):
        plots.scatter(axis, task, name)
    for axis, task in zip(axes.flat, tasks.values(), strict=False):
        if task.n_classes == max(task.n_classes for task in tasks.values()):
            axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle("class by color and shape; train filled, test hollow")
    return figure


def boundaries(pairs: dict) -> Figure:
    """Draw the class regions of both networks on each set that has two features."""
    flat = {name: results for name, results in pairs.items() if in_plane(results)}
    return compare_mlps.boundaries(flat)


def in_plane(results: dict) -> bool:
    """Return whether the data set of a pair of results has two features."""
    return next(iter(results.values())).task.n_features == 2


def histories(pairs: dict) -> dict[str, dict[str, list]]:
    """Return the histories of live results in the form that `curves_of` takes."""
    return {
        name: {BACKENDS[backend]: result.history for backend, result in results.items()}
        for name, results in pairs.items()
    }


def kept_histories(rows: Sequence[dict]) -> dict[str, dict[str, list]]:
    """Return the histories stored in the rows of results, by set and backend."""
    kept = [row for row in compare_mlps.in_order(rows) if "history" in row]
    found: dict[str, dict[str, list]] = {row["case"]["dataset"]: {} for row in kept}
    for row in kept:
        found[row["case"]["dataset"]][BACKENDS[row["backend"]]] = row["history"]
    return found


def curves_of(groups: dict[str, dict[str, list]], title: str = "", log: bool = False) -> Figure:
    """Draw train and test loss and accuracy of both networks, a row for each set.

    With `log`, the axis of the loss is logarithmic.
    """
    return plots.curve_grid(groups, CURVES, title, log)


def accuracies(rows: Sequence[dict]) -> Figure:
    """Draw the test accuracy of each set and network.

    Each seed is a dot, with mean and standard deviation (n - 1) beside them.
    """
    summary = compare_mlps.summary(rows)
    names = list(dict.fromkeys(entry["dataset"] for entry in summary))
    figure, axes = panels(1, 1, 7, 3.6)
    axis = axes[0, 0]
    for i, (backend, label) in enumerate(BACKENDS.items()):
        for entry in (entry for entry in summary if entry["backend"] == backend):
            place = names.index(entry["dataset"]) + (i - 0.5) * 0.3
            seeds = [
                row["test_accuracy"]
                for row in rows
                if (row["backend"], row["case"]["dataset"]) == (backend, entry["dataset"])
            ]
            axis.scatter([place - 0.08] * len(seeds), seeds, s=14, color=COLORS[i], alpha=0.6)
            mean, deviation = entry["test_accuracy"], entry["test_accuracy_deviation"]
            style = {"fmt": MARKERS[i], "color": COLORS[i], "capsize": 4}
            axis.errorbar(place + 0.04, mean, deviation, **style)
        axis.errorbar([], [], [], label=label, **style)
    axis.set(xticks=range(len(names)), xticklabels=names, ylabel="test accuracy")
    axis.legend()
    return figure


def kinks(params: dict[str, Params], task: Dataset) -> Figure:
    """Draw the line w x + b = 0 of each hidden unit of an MLP with two inputs, over the points.

    Each of the named params has its own panel. Nearly vertical lines are left out.
    """
    figure, axes = panels(1, len(params), 4.6, 4.2)
    line = np.linspace(-2.6, 2.6, 2)
    for axis, (title, own) in zip(axes[0], params.items(), strict=True):
        plots.scatter(axis, task, title)
        for (a, b), bias in zip(own["fc1.weight"], own["fc1.bias"], strict=True):
            if abs(b) > 1e-3:
                axis.plot(line, -(a * line + bias) / b, color="black", alpha=0.4, linewidth=0.9)
        axis.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
    return figure


def differences(found: dict[str, dict[str, list[float]]]) -> Figure:
    """Draw the largest difference between the params of both networks after each step.

    Each optimizer has a panel, each dtype a line.
    """
    figure, axes = panels(1, len(found), 4.8, 3.6, sharey=True)
    for axis, (optimizer, by_dtype) in zip(axes[0], found.items(), strict=True):
        for i, (dtype, values) in enumerate(by_dtype.items()):
            steps = range(1, len(values) + 1)
            axis.semilogy(steps, values, LINES[i], color=COLORS[i], label=dtype)
        axis.set(title=optimizer, xlabel="step")
    axes[0, 0].set_ylabel("largest difference of params")
    axes[0, -1].legend()
    return figure


def strategies(rows: Sequence[dict]) -> Figure:
    """Draw train and test loss and accuracy over the epochs, for each batch size.

    Only rows of the NumPy network with a history are drawn, which are those of the first seed.
    """
    names = {0: "full batch", 1: "single sample"}
    kept = [row for row in rows if row["backend"] == "numpy" and "history" in row]
    runs = {}
    for row in kept:
        size, epochs = row["case"]["batch_size"], row["case"]["max_steps"]
        per_epoch = row["history"][-1]["step"] / epochs
        label = names.get(size, f"batches of {size}")
        runs[label] = [h | {"step": h["step"] / per_epoch} for h in row["history"]]
    figure = plots.curves(runs, CURVES)
    names = figure.axes[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    for axis in figure.axes:
        axis.set(xlabel="epoch")
        axis.get_legend().remove()
    return figure


@dataclass(frozen=True)
class Config(Options):
    """Draw loss, accuracy and decision boundaries of both networks on all sets."""

    results: str = option("results/part1_sets.json", "what scripts/compare_mlps.py wrote")
    out: str = option("docs/figures/mlp_curves.png", "PNG of the curves to write")
    boundaries: str = option("docs/figures/boundaries.png", "PNG of the boundaries to write")


def main(config: Config) -> Figure:
    found = result_files.read(config.results, COMPARISON)
    groups = kept_histories(found["rows"])
    seeds = {row["case"]["seed"] for row in found["rows"] if "history" in row}
    which = f"seed {', '.join(map(str, sorted(seeds)))}"
    figure = curves_of(groups, f"Train and test, NumPy by hand and torch.func, {which}")
    save(figure, Path(config.out))
    save(compare_mlps.boundaries(compare_mlps.kept_pairs(found["rows"])), Path(config.boundaries))
    return figure


if __name__ == "__main__":
    command(Config, main)
