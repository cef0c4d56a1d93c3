"""Part I of the report: the MLP in NumPy and in PyTorch."""

import numpy as np
from matplotlib.figure import Figure

from purenets.core.report import plots
from purenets.core.report.diagrams import network
from purenets.core.report.document import Section
from purenets.core.report.tabulate import as_table, tabulate
from scripts import compare_mlps, run_quick
from scripts.report.prose import sections
from scripts.report.results import in_small, source
from scripts.shared.mlp import CURVES, MLPConfig

HIDDEN, BATCH = 20, 32  # of the network whose layers are shown
EPOCHS = 100  # of the decision boundaries
PLANES = ("moons", "circles", "blobs")  # sets with two features


def section(found: dict, quick: run_quick.Config) -> Section:
    """Return Part I; from a quick run where the results of all sets are not in `found`."""
    values = structure() | {
        "boundaries": boundaries(quick.seed),
        "epochs": EPOCHS,
        "seed": quick.seed,
    }
    if "part1_sets" in found:
        values |= {"quick": None} | of_sets(found["part1_sets"])
        values |= of_table(found, "strategies") | of_table(found, "noise")
    else:
        missing = ("sets", "curves", "strategies", "noise")
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
        "mlp-layers": as_table(rows),
        "mlp-dimensions": network(rows, f"MLP 2-{HIDDEN}-2, batch of {BATCH}"),
        "batch_size": defaults.batch_size,
        "learning_rate": defaults.learning_rate,
        "test_fraction": defaults.test_fraction,
    }


def boundaries(seed: int) -> Figure:
    """Return the decision boundaries of both networks, trained here."""
    case = {"max_steps": EPOCHS, "eval_freq": 2, "optimizer": "adam", "seed": seed}
    pairs = {name: compare_mlps.train_both(MLPConfig(dataset=name, **case)) for name in PLANES}
    return compare_mlps.boundaries(pairs)


def of_sets(found: dict) -> dict:
    """Return the values of the comparison on all sets."""
    rows = compare_mlps.summary(found["rows"])
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    accuracies = [[r["test_accuracy"] for r in rows if r["dataset"] == name] for name in names]
    hardest = min(rows, key=lambda row: row["test_accuracy"])
    return {
        "sets": compare_mlps.table(found["rows"]),
        "sets_source": source(found),
        "n_sets": len(names),
        "largest_gap": 100 * max(abs(a - b) for a, b in accuracies),
        "hardest": hardest["dataset"],
        "hardest_accuracy": hardest["test_accuracy"],
        "curves": curves(found["rows"]),
    }


def curves(rows: list[dict]) -> Figure | None:
    """Return the curves of both networks on circles, if a row has its history."""
    kept = [row for row in rows if row["case"]["dataset"] == "circles" and row.get("history")]
    histories = {compare_mlps.BACKENDS[row["backend"]]: row["history"] for row in kept}
    return plots.curves(histories, CURVES, "circles, first seed") if histories else None


def of_table(found: dict, name: str) -> dict:
    """Return the values of one more comparison of the MLPs; None if it is missing."""
    if f"part1_{name}" not in found:
        return {name: None}
    comparison = found[f"part1_{name}"]
    return {name: compare_mlps.table(comparison["rows"]), f"{name}_source": source(comparison)}
