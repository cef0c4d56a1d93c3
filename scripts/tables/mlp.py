"""The tables of Part I."""

from collections.abc import Sequence

import numpy as np

from purenets import Params
from purenets.core.report.tables import Table, table_of
from scripts import compare_mlps
from scripts.shared.sweeps import MEAN_SD

SHORT = {"numpy": "NumPy", "torch": "torch"}
LABELS = {"dataset": "set", "batch_size": "batch"}


def moved(before: Params, after: Params) -> Table:
    """Return a row for each param: its shape, its norm after training, and how far it moved."""
    rows = [
        (
            name,
            tuple(leaf.shape),
            leaf.size,
            f"{np.linalg.norm(leaf):.3f}",
            f"{np.linalg.norm(leaf - before[name]):.3f}",
        )
        for name, leaf in after.items()
    ]
    return table_of(("param", "shape", "elements", "norm", "moved by"), rows)


def compared(rows: Sequence[dict], *columns: str) -> Table:
    """Return the accuracies of both networks, mean ± standard deviation over the seeds.

    Args:
        rows: rows of the results of scripts/compare_mlps.py.
        columns: the options in which the rows differ, such as "dataset" or "optimizer".
    """
    parts = [f"{part} accuracy" for part in ("train", "test")]
    names = [LABELS.get(column, column) for column in columns]
    header = (*names, "network", *parts, "n", "params differ by at most")
    table = table_of(
        header,
        [
            (
                *(named(column, entry[column]) for column in columns),
                SHORT[entry["backend"]],
                entry["train_accuracy_spread"],
                entry["test_accuracy_spread"],
                entry["n"],
                f"{entry['largest_difference']:.1e}",
            )
            for entry in compare_mlps.summary(rows)
        ],
    )
    return table._replace(caption=f"Accuracies: {MEAN_SD}, over n seeds.")


def named(column: str, value) -> str:
    """Return a value of a column as the table shows it."""
    names = {("batch_size", 0): "full", ("noise", None): "own"}
    return str(names.get((column, value), value))


def last_differences(found: dict[str, dict[str, list[float]]]) -> Table:
    """Return the largest difference between the params of both networks, by optimizer and dtype.

    It is given after the first and after the last step.
    """
    rows = [
        (optimizer, dtype, len(values), f"{values[0]:.1e}", f"{values[-1]:.1e}")
        for optimizer, by_dtype in found.items()
        for dtype, values in by_dtype.items()
    ]
    return table_of(("optimizer", "dtype", "steps", "after the first", "after the last"), rows)
