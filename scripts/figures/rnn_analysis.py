"""The figures of Part III's analysis: what was memorized, and why the first digit is forgotten.

Functions return a `matplotlib.figure.Figure`. `cells` are those of the JSON of
scripts/palindrome_holdout.py or scripts/palindrome_states.py; T is the length of a palindrome.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purenets.core.report.plots import COLORS, LINES, MARKERS, panels
from scripts.figures.rnn import CHANCE
from scripts.palindrome_states import SHOWN

WIDTH = 6.5  # width of the text in inches


def held_out(cells: Sequence[dict]) -> Figure:
    """Draw accuracy over the number of first halves in training, on these and on held-out ones.

    Each length has a panel; dots are seeds, lines their means.
    """
    lengths = sorted({cell["T"] for cell in cells})
    figure, axes = panels(1, len(lengths), WIDTH / len(lengths), 2.3, sharex=True, sharey=True)
    parts = (("train", "trained on", COLORS[0], "o-"), ("held_out", "held out", COLORS[3], "s--"))
    for axis, T in zip(axes[0], lengths, strict=True):
        mine = sorted((c for c in cells if c["T"] == T), key=lambda cell: cell["halves"])
        halves = [cell["halves"] for cell in mine]
        for name, label, color, line in parts:
            values = np.array([cell[name] for cell in mine])
            axis.plot(halves, values.mean(axis=1), line, color=color, label=label, markersize=5)
            axis.plot(halves, values, ".", color=color, markersize=4, alpha=0.5)
        axis.axhline(CHANCE, color="black", linestyle=":", linewidth=1.2, label="chance")
        axis.set(xscale="log", ylim=(0, 1.04), xlabel="first halves trained on")
        axis.set_title(f"T = {T}", fontsize=10)
    axes[0, 0].set_ylabel("accuracy")
    axes[0, -1].legend(fontsize=8)
    return figure


def gradients(cells: Sequence[dict]) -> Figure:
    """Draw the gradient at h(t) relative to that at the last step, over the steps back in time.

    There are two panels for default networks, before and after training, and one for latches. Lines
    are geometric means over the seeds.
    """
    figure, axes = panels(1, 3, WIDTH / 3, 2.5, sharey=True)
    default = [cell for cell in cells if cell["setting"] == "default"]
    latches = [cell for cell in cells if cell["setting"] == "latches"]
    for axis, when in zip(axes[0], ("before", "after"), strict=False):
        for i, cell in enumerate(default):
            over_steps_back(axis, cell[when]["gradients"], f"T = {cell['T']}", i)
        axis.set_title(f"default, {when} training", fontsize=9)
    for i, when in enumerate(("before", "after")):
        for cell in latches:
            over_steps_back(axes[0, 2], cell[when]["gradients"], when, i)
    axes[0, 2].set_title("latches", fontsize=9)
    for axis in axes[0]:
        axis.set(yscale="log", xlabel="steps back in time", ylim=(1e-11, 1e4))
    for axis in (axes[0, 0], axes[0, 2]):  # the second panel has the lines of the first
        axis.legend(fontsize=7.5, loc="lower left")
    axes[0, 0].set_ylabel("|dL/dh(t)| / |dL/dh(T-1)|")
    return figure


def over_steps_back(axis: Axes, by_seed: Sequence[Sequence[float]], label: str, i: int) -> None:
    """Draw the geometric mean over the seeds; a line ends where a gradient is exactly zero."""
    values = np.array(by_seed)[:, ::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.exp(np.log(values / values[:, :1]).mean(axis=0))
    shares = np.where(shares > 0, shares, np.nan)
    axis.plot(range(len(shares)), shares, LINES[i % 4], color=COLORS[i], label=label)


def readable(cells: Sequence[dict]) -> Figure:
    """Draw how often the first digit is correctly predicted from h(t) alone: means over seeds."""
    figure, axes = panels(1, 1, WIDTH, 2.6)
    axis = axes[0, 0]
    curves = [(f"{cell['setting']}, T = {cell['T']}", cell["after"]["readable"]) for cell in cells]
    curves += [
        (f"{cell['setting']}, untrained", cell["before"]["readable"])
        for cell in (cells[0], cells[-1])
    ]
    for i, (label, by_seed) in enumerate(curves):
        values = np.array(by_seed).mean(axis=0)
        times = range(1, len(values) + 1)
        style = {"color": COLORS[i % 8], "label": label, "linewidth": 1.5}
        axis.plot(times, values, LINES[i % 4], **style)
    axis.axhline(CHANCE, color="black", linestyle=":", linewidth=1.2, label="chance")
    axis.set(xlabel="time t (digits read)", ylabel="first digit read from h(t)", ylim=(0, 1.04))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def planes(cells: Sequence[dict]) -> Figure:
    """Draw hidden states of one seed in their principal plane, at some times, by first digit."""
    shown = [cells[0], cells[-1]]
    figure, axes = panels(len(shown), len(SHOWN), WIDTH / len(SHOWN), 1.55)
    colors = matplotlib.colormaps["tab10"].colors  # ten digits need ten colors
    for row, cell in zip(axes, shown, strict=True):
        points, digits = np.array(cell["plane"]["points"]), np.array(cell["plane"]["digits"])
        for axis, place in zip(row, range(len(SHOWN)), strict=True):
            for digit in range(10):
                own = points[digits == digit, place]
                style = {"s": 9, "color": colors[digit], "marker": MARKERS[digit]}
                axis.scatter(*own.T, linewidths=0, label=str(digit), **style)
            axis.set_title(f"t = {SHOWN[place]}", fontsize=8)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{cell['setting']}, T = {cell['T']}\ncomponent 2", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("component 1", fontsize=8)
    handles, names = axes[0, 0].get_legend_handles_labels()
    place = {"loc": "outside right center", "fontsize": 8, "title_fontsize": 8}
    figure.legend(handles, names, title="first\ndigit", frameon=False, **place)
    return figure
