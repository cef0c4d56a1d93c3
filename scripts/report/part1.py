"""Part I of the report: the MLP in NumPy and in PyTorch."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from purenets.core.report.diagrams import network
from purenets.core.report.document import TEXT_WIDTH, Section
from purenets.core.report.tabulate import tabulate
from scripts import compare_mlps, run_quick, shuffled_pixels
from scripts.figures import mlp as mlp_figures
from scripts.report import one_step
from scripts.report.layer_formulas import formulas
from scripts.report.prose import sections
from scripts.report.results import compact, in_small
from scripts.report.structure import layers
from scripts.shared.comparison import Difference, paired
from scripts.shared.mlp import MLPConfig

HIDDEN, BATCH = 20, 32  # of the network whose layers are shown
CURVE_HEIGHT = 1.45  # inches of each set
EPOCHS = 100  # of the decision boundaries
PLANES = ("moons", "circles", "blobs")  # sets with two features


def section(found: dict, quick: run_quick.Config) -> Section:
    """Return Part I; from a quick run where the results of all sets are not in `found`."""
    values = structure() | {
        "boundaries": boundaries(quick.seed),
        "epochs": EPOCHS,
        "seed": quick.seed,
        "one-step": one_step.interactive(quick.seed),
        "one_step_hidden": one_step.HIDDEN,
        "one_step_examples": one_step.EXAMPLES,
        "one_step_shown": one_step.STRIP[one_step.MIDDLE],
    }
    if "part1_sets" in found:
        values |= {"quick": None} | of_sets(found["part1_sets"])
        values |= of_strategies(found.get("part1_strategies")) | of_noise(found.get("part1_noise"))
        values |= of_shuffled(found.get("part1_shuffled"))
    else:
        missing = ("sets", "curves", "strategies", "noise", "shuffled")
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
        "mlp-formulas": formulas(rows),
        "mlp-dimensions": network(rows),
        "batch_size": defaults.batch_size,
        "learning_rate": defaults.learning_rate,
        "test_fraction": defaults.test_fraction,
    }


def boundaries(seed: int) -> Figure:
    """Return the decision boundaries of both networks, trained here."""
    case = {"max_steps": EPOCHS, "eval_freq": 2, "optimizer": "adam", "seed": seed}
    pairs = {name: compare_mlps.train_both(MLPConfig(dataset=name, **case)) for name in PLANES}
    figure = compare_mlps.boundaries(pairs)
    for axis in figure.axes:  # on two lines, since three panels share the width of the text
        axis.set_title(axis.get_title().replace(": ", "\n"))
    return figure


def of_sets(found: dict) -> dict:
    """Return the values of the comparison on all sets."""
    rows = compare_mlps.summary(found["rows"])
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    between = {name: between_backends(found["rows"], name) for name in names}
    largest = max(names, key=lambda name: abs(between[name].mean))
    hardest = min(rows, key=lambda row: row["test_accuracy"])
    return {
        "sets": compact(compare_mlps.table(found["rows"])),
        "sets_n": found["n"],
        "n_sets": len(names),
        "largest_gap": between[largest].points(),
        "largest_gap_set": largest,
        "hardest": hardest["dataset"],
        "hardest_accuracy": f"{hardest['test_accuracy_spread']}",
        "hardest_gap": gap(found["rows"], hardest["dataset"]).points(),
        "curves": curves(found["rows"]),
    }


def test_accuracies(rows: Sequence[dict], **case) -> list[float]:
    """Return the test accuracies, by seed, of the NumPy network or of one `backend`."""
    backend = case.pop("backend", "numpy")
    mine = [
        row for row in rows if row["backend"] == backend and case.items() <= row["case"].items()
    ]
    return [row["test_accuracy"] for row in sorted(mine, key=lambda row: row["case"]["seed"])]


def between_backends(rows: Sequence[dict], name: str) -> Difference:
    """Return the test accuracy of PyTorch less that of NumPy on a set, seed by seed."""
    both = (test_accuracies(rows, dataset=name, backend=which) for which in ("torch", "numpy"))
    return paired(*both)


def gap(rows: Sequence[dict], name: str) -> Difference:
    """Return the training accuracy less the test accuracy on a set, of the NumPy network."""
    mine = [r for r in rows if r["backend"] == "numpy" and r["case"]["dataset"] == name]
    both = ([row[f"{part}_accuracy"] for row in mine] for part in ("train", "test"))
    return paired(*both)


def curves(rows: list[dict]) -> Figure | None:
    """Return the curves of both networks on each set, if the rows have their histories."""
    histories = mlp_figures.kept_histories(rows)
    if not histories:
        return None
    figure = mlp_figures.curves_of(histories)
    figure.set_size_inches(TEXT_WIDTH, CURVE_HEIGHT * len(histories))
    for axis in figure.axes[1:]:  # the first panel names the lines of all
        axis.get_legend().remove()
    for axis in figure.axes[:-2]:
        axis.set_xlabel("")
    return figure


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
        "noise_n": found["n"],
        "low_noise": low,
        "high_noise": high,
        "noise_loss": paired(by_noise["adam", high], by_noise["adam", low]).points(),
        "adam_low": paired(by_noise["adam", low], by_noise["sgd", low]).points(),
        "adam_high": paired(by_noise["adam", high], by_noise["sgd", high]).points(),
    }


def of_shuffled(found: dict | None) -> dict:
    """Return the values of digits with their pixels in order and shuffled."""
    if found is None:
        return {"shuffled": None}
    effects = {net: shuffled_pixels.effect(found["rows"], net) for net in shuffled_pixels.NETS}
    return {
        "shuffled": compact(shuffled_pixels.table(found["rows"])),
        "shuffled_n": found["n"],
        "shuffled_mlp": effects["MLP"].points(),
        "shuffled_cnn": effects["CNN"].points(),
        "shuffled_errors": effects["CNN"].errors,
    }
