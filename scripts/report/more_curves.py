"""The appendix with the loss and accuracy of all trainings that the parts do not draw."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from purenets.core.report.document import Section
from scripts import cifar10_sweep, cnn_sweep
from scripts.figures import cifar10 as cifar10_figures
from scripts.figures import mlp as mlp_figures
from scripts.figures import rnn as rnn_figures
from scripts.figures.legends import one_legend
from scripts.report import cifar10, part1, part2
from scripts.report.prose import sections

NAMES = {"sgd": "SGD", "adam": "Adam"}
ROW_HEIGHT = 2.1  # inches of a setting's curves, before the figure has the width of the text
DRAWN = (*cnn_sweep.COMPARED, part2.BEST)  # the settings of the reduced VGG in Part II


def appendix(found: dict[str, dict]) -> list[Section]:
    """Return the appendix; an empty list if `found` has no curves for it."""
    values = (
        of_perceptrons(found)
        | {"shuffled-curves": of_shuffled(found)}
        | {
            "presets-curves": of_presets(found),
            "held-out-curves": of_held_out(found),
            "settings-curves": of_settings(found),
        }
        | of_lengths(found)
    )
    return sections("more_curves", values) if any(values.values()) else []


def of_perceptrons(found: dict[str, dict]) -> dict:
    """Return the curves of the batch sizes and of moons with noise."""
    sizes, noises = (found.get(f"part1_{name}", {"rows": []}) for name in ("strategies", "noise"))
    by_noise: dict[str, dict[str, list]] = {}
    for optimizer in NAMES:
        for noise in sorted({row["case"]["noise"] for row in noises["rows"]}):
            case = {"optimizer": optimizer, "noise": noise}
            mine = [row for row in noises["rows"] if case.items() <= row["case"].items()]
            (histories,) = mlp_figures.kept_histories(mine).values()
            by_noise[f"noise {noise:g}, {NAMES[optimizer]}"] = histories
    figure = part1.curves(by_noise)
    for axis in figure.axes[:-2] if figure else ():
        axis.tick_params(labelbottom=False)  # all have the steps of the last row
    return {
        "strategies-curves": mlp_figures.strategies(sizes["rows"]) if sizes["rows"] else None,
        "noise-curves": figure,
    }


def of_shuffled(found: dict[str, dict]) -> Figure | None:
    """Return the curves of both nets on digits with the pixels in order and shuffled."""
    rows = [row for row in found.get("part1_shuffled", {"rows": []})["rows"] if "history" in row]
    histories: dict[str, dict[str, list]] = {}
    for row in rows:
        histories.setdefault(row["net"], {})[row["pixels"]] = row["history"]
    return part1.curves(histories)


def of_presets(found: dict[str, dict]) -> Figure | None:
    """Return the curves of the final trainings on CIFAR-10 that their parts do not draw."""
    drawn = [*cifar10.headline_rows(found, "mlp"), *cifar10.headline_rows(found, "cnn")]
    rows = [row for row in found.get("part1_cifar10", {"rows": []})["rows"] if row not in drawn]
    named = [row | {"setting": cifar10.title_of(row["setting"])} for row in rows]
    return learning_curves(named)


def of_held_out(found: dict[str, dict]) -> Figure | None:
    """Return the curves of the whole recipes of the ablation, which hold validation images out."""
    rows = found.get("part1_cifar10_ablation", {"rows": []})["rows"]
    whole = [row for row in rows if row["setting"] in cifar10_sweep.CHANGES]
    named = [
        row | {"setting": cifar10.of_shortened(row["setting"])["ablation_of"].replace("`", "")}
        for row in whole
    ]
    return learning_curves(named)


def of_settings(found: dict[str, dict]) -> Figure | None:
    """Return the curves of the settings of the reduced VGG that Part II does not draw."""
    rows = found.get("part2_settings", {"rows": []})["rows"]
    rows = [row for row in rows if row["setting"] not in DRAWN]
    return learning_curves(rows)


def learning_curves(rows: list[dict]) -> Figure | None:
    """Draw the curves of each setting, two figures on a page; return None if there are none."""
    if not rows:
        return None
    figure = cifar10_figures.learning_curves(rows)
    figure.set_size_inches(figure.get_figwidth(), ROW_HEIGHT * len(figure.axes) / 2)
    one_legend(figure, 3)
    return figure


def of_lengths(found: dict[str, dict]) -> dict:
    """Return the curves of the RNN at the lengths that Part III does not draw, in two figures."""
    cells = found.get("rnn_lengths", {"cells": []})["cells"]
    rest = sorted(
        (cell for cell in cells if cell not in rnn_figures.shown(cells)),
        key=lambda cell: cell["T"],
    )
    half = (len(rest) + 1) // 2
    return {
        "short-curves": curves_of(rest[:half]),
        "long-curves": curves_of(rest[half:]),
    }


def curves_of(cells: Sequence[dict]) -> Figure | None:
    """Return the curves of a few lengths, a column for each; None if there are none."""
    return rnn_figures.both_curves(cells) if cells else None
