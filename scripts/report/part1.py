"""Part I of the report: the MLP in NumPy and in PyTorch."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from purenets import random
from purenets.core.data.toy import CORNER_SD, CORNERS
from purenets.core.report.diagrams import network
from purenets.core.report.document import TEXT_WIDTH, Section
from purenets.core.report.tables import Table, table_of
from purenets.core.report.tabulate import tabulate
from scripts import compare_mlps, run_quick, shuffled_pixels
from scripts.figures import mlp as mlp_figures
from scripts.figures.legends import one_legend
from scripts.report import one_step
from scripts.report.best_possible import CURVES, best_possible
from scripts.report.layer_formulas import formulas
from scripts.report.prose import sections
from scripts.report.results import compact, in_small, parsed
from scripts.report.structure import layers
from scripts.report.words import in_digits, listed
from scripts.shared.comparison import Difference, paired
from scripts.shared.mlp import MLPConfig, load_data

HIDDEN, BATCH = 20, 32  # of the network whose layers are shown
CURVE_HEIGHT = 1.45  # inches of each set
NOISE = 0.1  # of moons and circles where no other is named
OF_SETS = ("sets", "sets_same", "sets_differ", "overlap", "overlap_otherwise")
OF_SHUFFLED = ("shuffled", "shuffled_uses", "shuffled_otherwise")
CONTENTS = {
    "moons": "two half circles, noise 0.1",
    "circles": "one circle inside another, noise 0.1",
    "blobs": "three clusters, SD 1",
    "overlap": "four clusters, SD 2, centers 4 apart",
    "digits": "8 \u00d7 8 pixels, of scikit-learn",
}


def section(found: dict, quick: run_quick.Config) -> Section:
    """Return Part I, with a quick run in place of results on all sets that `found` lacks."""
    values = (
        structure()
        | of_boundaries(found.get("part1_sets"))
        | {
            "one-step": one_step.interactive(quick.seed),
            "one_step_hidden": one_step.HIDDEN,
            "one_step_rate": one_step.RATE,
            "one_step_examples": one_step.EXAMPLES,
            "one_step_shown": one_step.STRIP[one_step.MIDDLE],
        }
    )
    if "part1_sets" in found:
        values |= {"quick": None} | of_sets(found["part1_sets"])
        values |= of_strategies(found.get("part1_strategies")) | of_noise(found.get("part1_noise"))
        values |= of_shuffled(found.get("part1_shuffled"))
    else:
        missing = (*OF_SETS, *OF_SHUFFLED, "curves", "strategies", "noise")
        values |= {"quick": in_small(run_quick.part1, quick)} | dict.fromkeys(missing)
    (part,) = sections("part1", values)
    return part


def structure() -> dict:
    """Return the values of the network and its training."""
    from purenets.numpy_nets import MLP

    rows = tabulate(MLP(2, [HIDDEN], 2), np.zeros((BATCH, 2), np.float32))
    defaults = MLPConfig()
    return {
        "hidden": HIDDEN,
        "batch": BATCH,
        "parameters": sum(row.params for row in rows),
        "mlp-layers": layers(rows),
        "mlp-formulas": formulas(rows, every=True),
        "mlp-dimensions": network(rows),
        "data-sets": data_sets(),
        "points": defaults.n_samples,
        "training_epochs": defaults.max_steps,
        "batch_size": defaults.batch_size,
        "learning_rate": defaults.learning_rate,
        "test_fraction": defaults.test_fraction,
    }


def data_sets() -> Table:
    """Return a row for each set: its points, its network, and the best possible accuracy."""
    header = ("set", "points", "features", "classes", "network", "parameters", "best possible")
    return table_of((*header, "contents"), map(of_data_set, compare_mlps.SETS))


def of_data_set(name: str) -> tuple:
    """Return the table row of a set."""
    from purenets.numpy_nets import MLP

    task = load_data(MLPConfig(dataset=name), random.key(0))
    points, sizes = sum(len(y) for _, y in (task.train, task.test)), (task.n_features, [HIDDEN])
    params, _ = MLP(*sizes, task.n_classes).init(random.key(0))
    return (
        *(name, f"{points:,}", task.n_features, task.n_classes),
        f"{task.n_features}-{HIDDEN}-{task.n_classes}",
        f"{sum(leaf.size for leaf in params.values()):,}",
        limit_of(name),
        CONTENTS[name],
    )


def limit_of(name: str) -> str:
    """Return the best possible accuracy on a set, as a text; "" where it is not known."""
    if name in CURVES:
        return f"{best_possible(name, NOISE):.1%}"
    return f"{overlap_limit():.1%}" if name == "overlap" else ""


@lru_cache
def overlap_limit() -> float:
    """Return the best possible accuracy on "overlap", that of the nearest center.

    The centers are the corners of a square and the deviation is the same in both directions. A
    point is therefore classified correctly if neither coordinate crosses the line halfway to
    another center.
    """
    half = max(x for x, _ in CORNERS) / 2
    return (0.5 * (1 + math.erf(half / CORNER_SD / math.sqrt(2)))) ** 2


def of_boundaries(found: dict | None) -> dict:
    """Return the values of the decision boundaries, of the first seed on all sets."""
    pairs = compare_mlps.kept_pairs(found["rows"]) if found else {}
    if not pairs:
        return dict.fromkeys(("boundaries", "boundaries_same", "boundaries_differ"))
    apart = max(map(regions_apart, pairs.values()))
    return {
        "boundaries": boundaries(pairs),
        "boundaries_same": apart < 0.005,
        "boundaries_differ": apart >= 0.005,
        "boundaries_apart": f"{apart:.1%}",
        "boundaries_seed": kept_seed(found["rows"]),
    }


def boundaries(pairs: dict) -> Figure:
    """Draw the decision boundaries of both networks."""
    figure = compare_mlps.boundaries(pairs)
    for axis in figure.axes:  # on several lines, since four panels share the width of the text
        axis.set_title(axis.get_title().replace(", ", "\n", 1).replace(": ", "\n"))
        axis.set(xlabel="", ylabel="")
        for points in axis.collections:
            if hasattr(points, "set_sizes"):
                points.set_sizes([8.0])  # so that test points do not hide the training points
    return figure


def regions_apart(results: dict) -> float:
    """Return the share of the plane around the points where the networks predict differently."""
    line = np.linspace(-3, 3, 121, dtype=np.float32)
    plane = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    one, other = (np.asarray(result.predict(plane)) for result in results.values())
    return float((one != other).mean())


def of_sets(found: dict) -> dict:
    """Return the values of the comparison on all sets."""
    rows = compare_mlps.summary(found["rows"])
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    between = {name: between_backends(found["rows"], name) for name in names}
    apart = {name: change for name, change in between.items() if differs(change)}
    return {
        "sets": compact(compare_mlps.table(found["rows"])),
        "sets_n": found["n"],
        "n_sets": len(names),
        "sets_same": not apart,
        "sets_differ": bool(apart),
        "sets_apart": ", ".join(f"{c.points()} on {name}" for name, c in apart.items()),
        **of_overlap(found["rows"]),
        "curves": curves(mlp_figures.kept_histories(found["rows"])),
        "curves_seed": kept_seed(found["rows"]),
    }


def differs(change: Difference) -> bool:
    """Return whether any seed has different accuracies in the two settings."""
    return bool(change.mean or change.standard_error)


def of_overlap(rows: Sequence[dict]) -> dict:
    """Return the accuracy of the NumPy network on "overlap", beside the best possible one."""
    mine = [r for r in rows if r["backend"] == "numpy" and r["case"]["dataset"] == "overlap"]
    if not mine:
        return dict.fromkeys(("overlap", "overlap_otherwise"))
    test, limit = test_accuracies(rows, dataset="overlap"), overlap_limit()
    below, above = paired(test, [limit] * len(test)), gap(rows, "overlap")
    explained = not below.is_clear and above.is_clear and above.mean > 0
    reached = f"{100 * np.mean(test):.2f} \u00b1 {100 * below.standard_error:.2f}%"
    return {
        "overlap": explained,
        "overlap_otherwise": not explained,
        "overlap_test": reached,
        "overlap_limit": f"{limit:.1%}",
        "overlap_gap": above.points(),
        "overlap_above": above.points().lstrip("+"),
    }


def test_accuracies(rows: Sequence[dict], **case) -> list[float]:
    """Return the test accuracies, by seed, of the rows whose case has the given options.

    They are those of the NumPy network, unless `backend` names the other one.
    """
    backend = case.pop("backend", "numpy")
    mine = [
        row for row in rows if row["backend"] == backend and case.items() <= row["case"].items()
    ]
    return [row["test_accuracy"] for row in sorted(mine, key=lambda row: row["case"]["seed"])]


def between_backends(rows: Sequence[dict], name: str) -> Difference:
    """Return the test accuracy of PyTorch minus that of NumPy on a set, paired by seed."""
    both = (test_accuracies(rows, dataset=name, backend=which) for which in ("torch", "numpy"))
    return paired(*both)


def gap(rows: Sequence[dict], name: str) -> Difference:
    """Return the training accuracy minus the test accuracy of the NumPy network on a set."""
    mine = [r for r in rows if r["backend"] == "numpy" and r["case"]["dataset"] == name]
    both = ([row[f"{part}_accuracy"] for row in mine] for part in ("train", "test"))
    return paired(*both)


def kept_seed(rows: Sequence[dict]) -> str:
    """Return the seeds whose rows have a history, as a text."""
    seeds = {row["case"]["seed"] for row in rows if "history" in row}
    return " and ".join(map(str, sorted(seeds)))


def curves(histories: dict[str, dict[str, list]]) -> Figure | None:
    """Draw the curves of both networks, a row for each key; return None if there are none."""
    if not histories:
        return None
    figure = mlp_figures.curves_of(histories, log=True)
    figure.set_size_inches(TEXT_WIDTH, CURVE_HEIGHT * len(histories))
    one_legend(figure, 2)
    for axis in figure.axes[::2]:
        label_losses(axis)
    for axis in figure.axes[1::2]:
        axis.set_ylim(*around([line.get_ydata()[-1] for line in axis.lines]))
    for axis in figure.axes[:-2]:
        axis.set_xlabel("")
    return figure


def label_losses(axis) -> None:
    """Label a logarithmic axis at some values, even if it spans few powers of ten."""
    low, high = axis.get_ylim()
    steps = (1,) if high > 300 * low else (1, 3) if high > 10 * low else (0.6, 0.8, 1, 1.4, 2, 4)
    axis.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def around(ends: Sequence[float]) -> tuple[float, float]:
    """Return the limits of an accuracy axis, in tenths, around the ends of its curves.

    >>> around([0.999, 0.97]), around([0.73, 0.69])
    ((0.9, 1.005), (0.6, 0.8))
    """
    top = math.ceil(10 * (max(ends) + 0.02)) / 10
    return math.floor(10 * (min(ends) - 0.02)) / 10, min(top, 1.005)


def of_strategies(found: dict | None) -> dict:
    """Return the values of full-batch, mini-batch and single-example descent."""
    if found is None:
        return {"strategies": None}
    sizes = sorted({row["case"]["batch_size"] for row in found["rows"]}, key=lambda n: n or 10**9)
    by_size = {size: test_accuracies(found["rows"], batch_size=size) for size in sizes}
    smallest, *_, largest = sizes
    steps = {
        n: max(r["step"] for r in found["rows"] if r["case"]["batch_size"] == n) for n in sizes
    }
    return {
        "strategies": compact(compare_mlps.table(found["rows"])),
        "strategies_n": found["n"],
        "strategies_epochs": found["rows"][0]["case"]["max_steps"],
        "strategies_gain": paired(by_size[smallest], by_size[largest]).points(),
        "most_steps": steps[smallest],
        "fewest_steps": steps[largest],
    }


def of_noise(found: dict | None) -> dict:
    """Return the values of moons with increasing noise."""
    if found is None:
        return {"noise": None}
    noises = sorted({row["case"]["noise"] for row in found["rows"]})
    by_noise = {
        (optimizer, noise): test_accuracies(found["rows"], optimizer=optimizer, noise=noise)
        for optimizer in ("sgd", "adam")
        for noise in noises
    }
    low, high = noises[0], noises[-1]
    return {
        "noise": compact(compare_mlps.table(found["rows"])),
        "adam_apart": listed(f"{value:.2g}" for value in params_apart(found["rows"], "adam")),
        "sgd_apart": in_digits(max(params_apart(found["rows"], "sgd"))),
        "noise_n": found["n"],
        "noise_epochs": found["rows"][0]["case"]["max_steps"],
        "low_noise": low,
        "high_noise": high,
        "noise_loss": paired(by_noise["adam", high], by_noise["adam", low]).points(),
        "noises": ", ".join(f"{noise:g}" for noise in noises),
        "noise_rate": found["rows"][0]["case"]["learning_rate"],
        "noise_limits": ", ".join(
            f"{best_possible('moons', noise):.1%} at noise {noise:g}" for noise in noises
        ),
        "limit_loss": f"{100 * (best_possible('moons', low) - best_possible('moons', high)):.2f}",
        "sgd_below": above_limit(by_noise["sgd", high], high),
        "adam_below": above_limit(by_noise["adam", high], high),
        "backends_apart": ", ".join(backends_apart(found["rows"], noise) for noise in noises),
        "adam_low": paired(by_noise["adam", low], by_noise["sgd", low]).points(),
        "adam_high": paired(by_noise["adam", high], by_noise["sgd", high]).points(),
    }


def above_limit(accuracies: Sequence[float], noise: float) -> str:
    """Return the accuracies on moons minus the best possible accuracy, in points."""
    return paired(accuracies, [best_possible("moons", noise)] * len(accuracies)).points()


def backends_apart(rows: Sequence[dict], noise: float) -> str:
    """Return the test accuracy of PyTorch minus that of NumPy, both with Adam, in points."""
    torch, numpy = (
        test_accuracies(rows, optimizer="adam", noise=noise, backend=which)
        for which in ("torch", "numpy")
    )
    return paired(torch, numpy).points()


def params_apart(rows: Sequence[dict], optimizer: str) -> list[float]:
    """Return the largest difference between the params of both networks, for each noise."""
    mine = [row for row in compare_mlps.summary(rows) if row["optimizer"] == optimizer]
    return list({row["noise"]: row["largest_difference"] for row in mine}.values())


def of_shuffled(found: dict | None) -> dict:
    """Return the values of digits with ordered and with shuffled pixels."""
    if found is None:
        return dict.fromkeys(OF_SHUFFLED)
    rows, config = found["rows"], parsed(shuffled_pixels.Config, found)
    effects = {net: shuffled_pixels.effect(rows, net) for net in shuffled_pixels.NETS}
    gain = paired(*(shuffled_pixels.accuracies(rows, net, "in order") for net in ("CNN", "MLP")))
    loses = effects["CNN"].mean < 0 and effects["CNN"].is_clear
    uses_order = loses and not effects["MLP"].is_clear and not gain.is_clear
    return {
        "shuffled_uses": uses_order,
        "shuffled_otherwise": not uses_order,
        "shuffled_gain": gain.points(),
        "shuffled_loss": effects["CNN"].points().lstrip("-"),
        "shuffled": compact(shuffled_pixels.table(found["rows"])),
        "shuffled_n": found["n"],
        "shuffled_hidden": config.hidden,
        "shuffled_steps": config.steps,
        "shuffled_batch": config.batch_size,
        "shuffled_mlp": effects["MLP"].points(),
        "shuffled_cnn": effects["CNN"].points(),
    }
