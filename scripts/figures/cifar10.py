"""Figures of Part I, task 3, from the results of scripts/cifar10_sweep.py.

    python scripts/figures/cifar10.py   # over steps and time, from results/part1_cifar10.json

Functions return a `matplotlib.figure.Figure`. `rows` are the rows of the sweep's JSON file, one for
each setting and seed.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # runs from an unpacked copy without install

import numpy as np
from einops import rearrange, reduce
from matplotlib.figure import Figure

from purenets.core.report import plots
from purenets.core.report.plots import COLORS, LINES, MARKERS, literal, panels, save
from purenets.core.runs.command import command
from purenets.core.runs.history import column
from purenets.core.runs.options import Options, option
from scripts.shared import result_files
from scripts.shared.schemas import SWEEP
from scripts.shared.sweeps import changes, grouped, images_of

FAR = -20  # points of accuracy


def over_time(rows: Sequence[dict], times: Mapping[str, float], title: str = "") -> Figure:
    """Draw validation accuracy over training time; thin lines are seeds.

    A marker shows the test accuracy at the end, over views where they were taken. Where no images
    were held out, the lines show training accuracy.

    Args:
        rows: rows of the sweep; settings without a time in `times` are left out.
        times: time of a whole training of each setting, as `times_in_a` returns it.
        title: title of the figure.
    """
    figure, axes = panels(1, 1, 7.2, 4.0)
    axis, timed = axes[0, 0], [row for row in rows if row["setting"] in times]
    for i, (setting, mine) in enumerate(grouped(timed).items()):
        color, line = COLORS[i % len(COLORS)], LINES[i % len(LINES)]
        for j, row in enumerate(mine):
            name = "valid_accuracy" if held_out(row) else "accuracy"
            steps, accuracy = column(row["history"], name)
            time = times[setting] * np.array(steps) / row["history"][-1]["step"]
            label = None if j else f"{setting} (n = {len(mine)})"
            axis.plot(time, accuracy, line, color=color, linewidth=1.3, label=label)
            if row["test"]:
                mark = MARKERS[i % len(MARKERS)]
                axis.plot(times[setting], final(row), mark, color=color, markersize=7)
    parts = {"validation" if held_out(row) else "training" for row in timed}
    part = " or ".join(sorted(parts, reverse=True))
    axis.plot([], [], "-", color="gray", linewidth=1.3, label=f"line: {part} accuracy")
    axis.plot([], [], "o", color="gray", markersize=7, label="marker: test at the end")
    text = "time of training on two CPU cores, in units of the public recipe's"
    axis.set(xlabel=text, ylabel="accuracy", title=title, ylim=(0.3, 1.0))
    axis.legend(fontsize=9, frameon=False, loc="lower right")
    return figure


def times_in_a(rows: Sequence[dict], found: dict) -> dict[str, float]:
    """Return the training time of each setting in units of A, the time of the public recipe.

    Args:
        rows: rows of the sweep; a setting has a time only if its runs take as many steps as the
            benchmark.
        found: results of benchmarks/cifar10.py, where each preset is timed beside the recipe.
    """
    times = {}
    for setting, pair in found["time"]["pairs"].items():
        ours, theirs = pair[f"purenets {setting}"], pair[found["time"]["unit"]]
        steps = {row["history"][-1]["step"] for row in rows if row["setting"] == setting}
        if steps == {ours["steps"]}:
            times[setting] = ours["seconds"] / theirs["seconds"]
    return times


def held_out(row: dict) -> bool:
    """Return whether a run held images out for validation."""
    return "valid_accuracy" in row["history"][-1]


def learning_curves(rows: Sequence[dict], title: str = "", pairs: int = 1) -> Figure:
    """Draw loss and accuracy of each setting in two panels side by side; each line is a seed.

    The panels show training, validation if images were held out, and a star for the test at the
    end. Training values are means over the steps since the previous row, on augmented images.

    Args:
        rows: rows of the sweep.
        title: title of the figure.
        pairs: number of settings side by side.
    """
    by_setting = grouped(list(rows))
    n_rows = -(-len(by_setting) // pairs)
    figure, axes = panels(n_rows, 2 * pairs, 4.8 if pairs == 1 else 3.9, 3.2)
    cells = rearrange(axes, "row (pair panel) -> (row pair) panel", panel=2)
    for axis in cells[len(by_setting) :].flat:
        axis.axis("off")
    for (setting, mine), pair in zip(by_setting.items(), cells, strict=False):
        for axis, name in zip(pair, ("loss", "accuracy"), strict=True):
            plots.training_and_validation(axis, [row["history"] for row in mine], name)
            draw_tests(axis, mine, name)
            axis.set(xlabel="step", ylabel=name)
        pair[0].set_title(title_of(setting, mine), loc="left")
        pair[0].legend(fontsize=9, frameon=False)
    figure.suptitle(title)
    return figure


def title_of(setting: str, rows: Sequence[dict]) -> str:
    """Return the title of a panel, which says if images were not held out."""
    part = "" if all(map(held_out, rows)) else ", none held out"
    return f"{setting} (n = {len(rows)}{part})"


def draw_tests(axis, rows: Sequence[dict], name: str) -> None:
    """Draw a star for the test of each run that looked at the test images, at its last step."""
    tested = [row for row in rows if name in (row["test"] or {})]
    for i, row in enumerate(tested):
        label = None if i else "test, at the end"
        step, value = row["history"][-1]["step"], row["test"][name]
        axis.plot(step, value, "*", color=COLORS[3], markersize=11, label=label)


def final(row: dict) -> float:
    """Return the test accuracy, over views where they were taken."""
    return row["test"].get("views_accuracy", row["test"]["accuracy"])


def ablation(rows: Sequence[dict], base: str, title: str = "") -> Figure:
    """Draw the `changes` as bars with a dot for each seed, best at the top.

    Each bar is a mean over the seeds. A mean below FAR is also written as a number.
    """
    points = changes(rows, base)
    whole = np.mean(
        [row["history"][-1]["valid_accuracy"] for row in rows if row["setting"] == base]
    )
    order = sorted(points, key=lambda name: np.mean(points[name]))
    figure, axes = panels(1, 1, 7.2, 0.9 + 0.34 * len(order))
    axis, places = axes[0, 0], np.arange(len(order))
    means = [np.mean(points[name]) for name in order]
    axis.barh(places, means, color=COLORS[5], height=0.65)
    for place, name, mean in zip(places, order, means, strict=True):
        axis.plot(points[name], [place] * len(points[name]), "o", color=COLORS[0], markersize=4)
        if mean < FAR:
            axis.text(0.02, place, f"{mean:.0f}", transform=axis.get_yaxis_transform(), va="center")
    if min(means, default=0) < FAR:
        near = [value for name in order for value in points[name] if value > FAR]
        axis.set_xlim(max(1.3 * min(near, default=FAR), FAR), max(1.3 * max(means), 1))
    axis.axvline(0, color="black", linewidth=1)
    axis.set(yticks=places, yticklabels=order, title=title)
    axis.set_xlabel(f"change in validation accuracy, points (preset: {whole:.1%})")
    axis.grid(axis="y", visible=False)
    return figure


def two_confusions(rows: dict[str, Sequence[dict]], title: str = "") -> Figure:
    """Draw the confusion matrices of several nets on the test images, side by side.

    Counts are means over the seeds, rounded. `rows` is {name: rows of the net}.
    """
    figure, axes = panels(1, len(rows), 5.6, 5.2)
    for axis, (name, mine) in zip(axes[0], rows.items(), strict=True):
        counts = np.mean([row["test"]["confusion"] for row in mine], axis=0).round().astype(int)
        plots.confusion(axis, counts, mine[0]["test"]["classes"], name)
    figure.suptitle(title)
    return figure


def by_class(rows: dict[str, Sequence[dict]], title: str = "") -> Figure:
    """Draw the test accuracy of every class for several nets; bars are means over seeds.

    `rows` is {name: rows of the net}.
    """
    figure, axes = panels(1, 1, 7.6, 3.8)
    axis = axes[0, 0]
    first = next(iter(rows.values()))
    classes = first[0]["test"]["classes"]
    order = class_accuracy(first).argsort()
    places, width = np.arange(len(classes)), 0.8 / len(rows)
    for i, (name, mine) in enumerate(rows.items()):
        offset = (i - (len(rows) - 1) / 2) * width
        hatch = ("", "//", "..")[i % 3]
        bars = class_accuracy(mine)[order]
        axis.bar(
            places + offset,
            bars,
            width,
            color=COLORS[i],
            hatch=hatch,
            edgecolor="white",
            label=name,
        )
    axis.set(
        xticks=places,
        yticks=np.arange(0, 1.01, 0.2),
        ylabel="test accuracy",
        ylim=(0, 1.15),
        title=title,
    )
    axis.set_xticklabels([literal(classes[i]) for i in order], rotation=30, ha="right")
    axis.legend(fontsize=9, frameon=False, loc="upper center", ncols=len(rows))
    axis.grid(axis="x", visible=False)
    return figure


def class_accuracy(rows: Sequence[dict]) -> np.ndarray:
    """Return the test accuracy of each class, averaged over seeds, (classes,)."""
    counts = np.array([row["test"]["confusion"] for row in rows], dtype=float)
    images = reduce(counts, "seed true predicted -> seed true", "sum")
    return (np.diagonal(counts, axis1=1, axis2=2) / images).mean(axis=0)


@dataclass(frozen=True)
class Config(Options):
    """Draw the accuracy over the time of training, and loss and accuracy over the steps."""

    results: str = option("results/part1_cifar10.json", "what scripts/cifar10_sweep.py wrote")
    times: str = option("results/benchmarks_cifar10.json", "what benchmarks/cifar10.py wrote")
    out: str = option("docs/figures/cifar10_time.png", "PNG of the accuracy over time")
    curves: str = option("docs/figures/cifar10_curves.png", "PNG of loss and accuracy over steps")


def main(config: Config) -> None:
    by_setting = grouped(result_files.read(config.results, SWEEP)["rows"])
    seeds = max(map(len, by_setting.values()))
    rows = [
        row for mine in by_setting.values() for row in mine if seeds == 1 or len(mine) > 1
    ]  # not single trials
    title = f"{images_of(rows)}, with and without convolutions"
    times = times_in_a(rows, result_files.read(config.times))
    save(over_time(rows, times, title), Path(config.out))
    save(learning_curves(rows, title), Path(config.curves))


if __name__ == "__main__":
    command(Config, main)
