"""Figures of Part III, from the results of the sweeps and the analysis of single networks.

    python scripts/figures/rnn.py  # accuracy over length and steps, of results/rnn_lengths.json

Functions return a `matplotlib.figure.Figure`. `cells` are the cells of a sweep's JSON file; T is
the length of a palindrome.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # runs from an unpacked copy without install

import numpy as np
from matplotlib.figure import Figure

from purenets.core.report.plots import COLORS, LINES, MARKERS, panels, save
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option
from scripts.shared import result_files
from scripts.shared.schemas import CELLS
from scripts.shared.sweeps import MEAN_SD, deviation

CHANCE = 0.1  # ten digits
ASIDE = 1.035  # factor between adjacent settings on the axis of lengths
SHOWN = (5, 12, 20, 40)  # lengths T whose curves are drawn, from perfect to low accuracy


def at_own_length(cell: dict) -> np.ndarray:
    """Return the accuracy of each seed at the length that it was trained at."""
    return np.array(cell["accuracy"][str(cell["T"])]["by_seed"])


def accuracy_over_length(cells: Sequence[dict], title: str = "") -> Figure:
    """Draw accuracy over length, with chance as a dotted line.

    Each seed is a dot, their mean a line, and mean ± standard deviation (n - 1) a band.
    """
    figure, axes = panels(1, 1, 7.5, 4.2)
    axis, lengths = axes[0, 0], np.array([cell["T"] for cell in cells])
    values = [at_own_length(cell) for cell in cells]
    mean = np.array([v.mean() for v in values])
    sd = np.array([deviation(v) or 0.0 for v in values])  # of one seed there is no band
    axis.fill_between(
        lengths,
        np.clip(mean - sd, 0, 1),
        np.clip(mean + sd, 0, 1),
        color=COLORS[0],
        alpha=0.15,
        linewidth=0,
        label=MEAN_SD,
    )
    axis.plot(lengths, mean, color=COLORS[0], label="mean")
    for T, of_seeds in zip(lengths, values, strict=True):
        aside = np.linspace(-0.25, 0.25, len(of_seeds))  # so that equal seeds stay visible
        axis.scatter(T + aside, of_seeds, s=14, color=COLORS[3], alpha=0.7, linewidths=0, zorder=3)
    axis.scatter([], [], s=14, color=COLORS[3], label="one seed")
    axis.axhline(CHANCE, color="black", linestyle=":", linewidth=1.3, label="chance")
    axis.set(xlabel="length of the palindrome T", ylabel="accuracy", ylim=(0, 1.04), title=title)
    axis.set_xticks(lengths)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def learning_curves(cells: Sequence[dict], columns: int = 3, name: str = "test_accuracy") -> Figure:
    """Draw a metric over the steps, a panel for each cell: every seed thin, their mean thick."""
    rows = -(-len(cells) // columns)
    figure, axes = panels(rows, columns, 3.6, 2.6, sharex=True, sharey=True)
    for axis, cell in zip(axes.flat, cells, strict=False):
        steps = [row["step"] for row in cell["history"]]
        curves = of_seeds(cell, name)
        axis.plot(steps, curves, color=COLORS[5], linewidth=0.9, alpha=0.8)
        axis.plot(steps, curves.mean(axis=1), color=COLORS[0], linewidth=2.2)
        axis.axhline(CHANCE, color="black", linestyle=":", linewidth=1.2)
        axis.set_title(f"T = {cell['T']}", fontsize=11)
        axis.tick_params(labelsize=9)
    for axis in axes.flat[len(cells) :]:
        axis.axis("off")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    return figure


def both_curves(cells: Sequence[dict], title: str = "") -> Figure:
    """Draw loss and accuracy of a few cells, a column for each.

    The training curve is the mean over the seeds. In the evaluation each seed is a thin line, and
    their mean a dashed one.
    """
    figure, axes = panels(2, len(cells), 3.8, 2.9, sharex="col")
    for column, cell in zip(axes.T, cells, strict=True):
        steps = [row["step"] for row in cell["history"]]
        for axis, name in zip(column, ("loss", "accuracy"), strict=True):
            seeds = of_seeds(cell, f"test_{name}")
            lines = axis.plot(steps, seeds, color=COLORS[1], linewidth=0.7, alpha=0.6)
            lines[0].set_label("each seed")
            axis.plot(steps, seeds.mean(axis=1), "--", color=COLORS[3], label="evaluation")
            known = [row for row in cell["history"] if name in row]
            values = [row[name] for row in known]
            axis.plot([row["step"] for row in known], values, color=COLORS[0], label="training")
        column[0].set(title=f"T = {cell['T']} (n = {len(cell['seeds'])})")
        column[1].axhline(CHANCE, color="black", linestyle=":", linewidth=1.2, label="chance")
        column[1].set(xlabel="step", ylim=(0, 1.04))
    axes[0, 0].set(ylabel="loss")
    axes[1, 0].set(ylabel="accuracy")
    names = axes[1, 0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.suptitle(title)
    return figure


def of_seeds(cell: dict, name: str) -> np.ndarray:
    """Return a metric of a cell's history, (evaluations, seeds)."""
    return np.array([[row[f"{name}_{seed}"] for seed in cell["seeds"]] for row in cell["history"]])


def shown(cells: Sequence[dict], lengths: Sequence[int] = SHOWN) -> list[dict]:
    """Return the cells whose length is among `lengths`."""
    return [cell for cell in cells if cell["T"] in lengths]


def heatmap(cells: Sequence[dict], title: str = "") -> Figure:
    """Draw settings by lengths: mean accuracy as color, mean and deviation (n - 1) as text."""
    settings = list(dict.fromkeys(cell["setting"] for cell in cells))
    lengths = sorted({cell["T"] for cell in cells})
    found = {(cell["setting"], cell["T"]): at_own_length(cell) for cell in cells}
    figure, axes = panels(1, 1, 2.6 + 1.3 * len(lengths), 1.2 + 0.36 * len(settings))
    axis = axes[0, 0]
    means = np.array([[found[name, T].mean() for T in lengths] for name in settings])
    picture = axis.imshow(means, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, name in enumerate(settings):
        for j, T in enumerate(lengths):
            sd = deviation(found[name, T])
            text = f"{means[i, j]:.2f}" + ("" if sd is None else f" ± {sd:.2f}")
            color = "white" if means[i, j] > 0.55 else "black"
            axis.text(j, i, text, ha="center", va="center", color=color, fontsize=9)
    axis.set_xticks(range(len(lengths)), [f"T = {T}" for T in lengths])
    axis.set_yticks(range(len(settings)), settings)
    figure.suptitle(title)
    axis.grid(False)
    figure.colorbar(picture, ax=axis, label="mean accuracy")
    return figure


def memory(cells: Sequence[dict], labels: Sequence[str] = (), title: str = "") -> Figure:
    """Draw accuracy over the length of evaluation, for networks trained at one length.

    Each seed is a dot, their mean a line. At each length the settings are drawn side by side, so
    that equal ones stay visible.
    """
    figure, axes = panels(1, 1, 7.8, 4.4)
    draw_memory(axes[0, 0], cells, labels)
    axes[0, 0].set(xlabel="length of the palindrome T", title=title)
    return figure


def memory_panels(groups: dict[str, dict[str, dict]]) -> Figure:
    """Draw `memory` of several groups of networks, a panel below the other for each.

    Args:
        groups: {title of the panel: {label: cell}}.
    """
    figure, axes = panels(len(groups), 1, 7.8, 2.9, sharex=True)
    for axis, (title, cells) in zip(axes[:, 0], groups.items(), strict=True):
        draw_memory(axis, list(cells.values()), list(cells))
        axis.set_title(title, loc="left")
    axes[-1, 0].set_xlabel("length of the palindrome T")
    return figure


def draw_memory(axis, cells: Sequence[dict], labels: Sequence[str] = ()) -> None:
    """Draw the accuracies of some networks over the length of evaluation, side by side."""
    for i, (cell, label) in enumerate(
        zip(cells, labels or [c["setting"] for c in cells], strict=True)
    ):
        lengths = sorted(map(int, cell["accuracy"]))
        values = np.array([cell["accuracy"][str(T)]["by_seed"] for T in lengths])
        color, shape, line = COLORS[i % len(COLORS)], MARKERS[i % 10], LINES[i // 2 % 4]
        size = 4 + 7 * (1 - i / len(cells))  # hollow and smaller each time: all of them show
        style = {"color": color, "label": label, "markersize": size, "markerfacecolor": "none"}
        places = np.array(lengths) * ASIDE ** (i - (len(cells) - 1) / 2)
        axis.plot(places, values.mean(axis=1), shape + line, **style)
        axis.plot(places, values, ".", color=color, markersize=5, alpha=0.7)
    axis.axvline(cells[0]["T"], color="gray", linewidth=1, linestyle="--")
    axis.axhline(CHANCE, color="black", linestyle=":", linewidth=1.3, label="chance")
    axis.set(xscale="log", ylabel="accuracy", ylim=(0, 1.04))
    axis.set_xticks(lengths, [str(T) for T in lengths])
    axis.minorticks_off()
    axis.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def over_time(groups: dict[str, dict[str, np.ndarray]], ylabel: str, log: bool = True) -> Figure:
    """Draw named curves over t = 1, 2, ..., with a panel for each group."""
    figure, axes = panels(1, len(groups), 4.4, 3.3, sharey=True)
    for axis, (title, curves) in zip(axes[0], groups.items(), strict=True):
        for i, (name, values) in enumerate(curves.items()):
            axis.plot(
                range(1, len(values) + 1),
                values,
                LINES[i % 4],
                color=COLORS[i],
                label=name,
                linewidth=2,
            )
        axis.set(xlabel="time t", title=title, yscale="log" if log else "linear")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=9, frameon=False)
    axes[0, 0].set_ylabel(ylabel)
    return figure


def singular_values(groups: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draw named curves of singular values in descending order, with a panel for each group."""
    figure, axes = panels(1, len(groups), 4.4, 3.3)
    for axis, (title, curves) in zip(axes[0], groups.items(), strict=True):
        for i, (name, values) in enumerate(curves.items()):
            shown = np.maximum(values, 1e-12)
            axis.plot(
                range(1, len(values) + 1),
                shown,
                LINES[i % 4],
                color=COLORS[i],
                label=name,
                linewidth=2,
            )
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set(xlabel="number", title=title, yscale="log")
        axis.legend(fontsize=9, frameon=False)
    axes[0, 0].set_ylabel("singular value")
    return figure


def traces(panels_of: dict[str, tuple[np.ndarray, np.ndarray]], times: Sequence[int]) -> Figure:
    """Draw hidden states in the plane of their first two principal axes, colored by first digit.

    Args:
        panels_of: points (examples, N, 2) and first digits (examples,) of each network, which has a
            row.
        times: times t, each of which has a column.
    """
    figure, axes = panels(len(panels_of), len(times), 2.9, 2.7)
    for row, (name, (points, digits)) in zip(axes, panels_of.items(), strict=True):
        for axis, t in zip(row, times, strict=True):
            for digit in range(10):
                of_digit = points[digits == digit, t - 1]
                axis.scatter(
                    *of_digit.T,
                    s=12,
                    color=COLORS[digit],
                    marker=MARKERS[digit],
                    alpha=0.7,
                    linewidths=0,
                    label=str(digit),
                )
            axis.set_title(f"t = {t}", fontsize=10)
            axis.tick_params(labelsize=8)
            axis.locator_params(nbins=5)
        row[0].set_ylabel(name)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, names, title="first digit", loc="outside right center", frameon=False, fontsize=9
    )
    return figure


@dataclass(frozen=True)
class Config(Options):
    """Draw accuracy over length, and the curves of some lengths, from what a sweep found."""

    results: str = option(
        "results/rnn_lengths.json", "the JSON file of scripts/palindrome_sweep.py"
    )
    figure: str = option("docs/figures/rnn_lengths.png", "PNG of the accuracy over length")
    curves: str = option("docs/figures/rnn_curves.png", "PNG of loss and accuracy over the steps")


def main(config: Config) -> Figure:
    found = result_files.read(config.results, CELLS)
    title = (
        f"Default parameters, {found['cells'][0]['steps']:,} steps, {found['n']} seeds at each T"
    )
    figure = accuracy_over_length(found["cells"], title)
    save(figure, Path(config.figure))
    save(both_curves(shown(found["cells"]), title), Path(config.curves))
    return figure


if __name__ == "__main__":
    command(Config, main)
