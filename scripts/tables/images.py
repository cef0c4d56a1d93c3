"""The tables of image nets, from the rows of a sweep: one for each setting and seed."""

from collections.abc import Sequence

import numpy as np

from purenets import Params
from purenets.core.report.tables import Table, table_of
from scripts.figures.cifar10 import class_accuracy, held_out
from scripts.shared.comparison import Difference, unpaired
from scripts.shared.sweeps import MEAN_SD, changes, deviation, grouped, spread


def parameters(params: Params) -> Table:
    """Return how many parameters each kind of layer has: "conv1.weight" belongs to "conv"."""
    counts: dict[str, int] = {}
    for name, leaf in params.items():
        kind = name.split(".")[0].rstrip("0123456789")
        counts[kind] = counts.get(kind, 0) + leaf.numel()
    rows = [(kind, f"{n:,}") for kind, n in counts.items()]
    return table_of(("layers", "parameters"), [*rows, ("all", f"{sum(counts.values()):,}")])


def outcome(rows: Sequence[dict]) -> Table:
    """Return the final loss and accuracy of one setting, with means over the seeds.

    The accuracy has its standard deviation too.
    """
    last = [row["history"][-1] for row in rows]
    lines = [("training, mean since the row before", last, "loss", "accuracy")]
    if all(map(held_out, rows)):
        lines.append(("validation", last, "valid_loss", "valid_accuracy"))
    tests = [row["test"] for row in rows if row["test"]]
    if tests:
        lines.append(("test", tests, "loss", "accuracy"))
    if tests and all("views_accuracy" in test for test in tests):
        lines.append(("test, mean over views", tests, "", "views_accuracy"))
    body = [
        (part, mean_of(found, loss), spread([one[accuracy] for one in found]), len(found))
        for part, found, loss, accuracy in lines
    ]
    return table_of(("", "loss", f"accuracy, % ({MEAN_SD})", "n"), body)


def mean_of(found: Sequence[dict], name: str) -> str:
    """Return the mean of a metric as a text; "" if it has no name."""
    return f"{np.mean([one[name] for one in found]):.3f}" if name else ""


def settings(rows: Sequence[dict]) -> Table:
    """Return a row for each setting: steps, and accuracies at the end in percent."""
    parts = [f"{part}, %" for part in ("training", "validation", "test", "test over views")]
    body = [cells(name, mine) for name, mine in grouped(list(rows)).items()]
    table = table_of(("setting", "steps", *parts, "n"), body)
    return without_empty(table)._replace(caption=f"Accuracies: {MEAN_SD}, over n seeds.")


def cells(setting: str, rows: Sequence[dict]) -> tuple:
    """Return a setting's row; a cell is empty where nothing was measured."""
    last, tests = [row["history"][-1] for row in rows], [row["test"] for row in rows]
    return (
        setting,
        f"{last[0]['step']:,}",
        spread([row["accuracy"] for row in last]),
        spread([row.get("valid_accuracy") for row in last]),
        spread([test.get("accuracy") for test in tests]),
        spread([test.get("views_accuracy") for test in tests]),
        len(rows),
    )


def without_empty(table: Table) -> Table:
    """Return the table without the columns in which no row has anything."""
    columns = [column for column in zip(*table.rows, strict=True) if any(column[1:])]
    return table._replace(rows=list(zip(*columns, strict=True)))


def against(rows: Sequence[dict], base: str) -> Table:
    """Return the difference of each setting's test accuracy from that of `base`, in points.

    The 95% interval is Welch's. It needs two seeds on both sides; without it, the difference allows
    no conclusion.
    """
    tested = grouped([row for row in rows if row["test"]])
    accuracies = {
        name: [100 * row["test"]["accuracy"] for row in mine] for name, mine in tested.items()
    }
    own = accuracies.pop(base)
    header = ("setting", f"points of test accuracy against {base}", "95% interval", "n of both")
    return table_of(header, [difference(name, v, own) for name, v in accuracies.items()])


def difference(name: str, values: Sequence[float], own: Sequence[float]) -> tuple:
    """Return the row of a setting in `against`."""
    found = unpaired(values, own)
    return (name, f"{found.mean:+.2f}", interval(found), ", ".join(map(str, found.n)))


def interval(found: Difference) -> str:
    """Return the 95% interval of a difference in points; "" for one seed."""
    if found.reach is None:
        return ""
    return f"{found.mean - found.reach:+.2f} to {found.mean + found.reach:+.2f}"


def confused(rows: dict[str, Sequence[dict]], n: int = 3) -> Table:
    """Return the most confused pairs of classes, with their share of all mistakes.

    `rows` is {name: rows of the net}; mistakes are summed over seeds.
    """
    lines = [
        (name, f"{a} and {b}", f"{share:.1%}", f"{wrong:,}")
        for name, mine in rows.items()
        for share, a, b, wrong in pairs_of(mine)[:n]
    ]
    return table_of(("network", "confused", "share of all mistakes", "mistakes, all seeds"), lines)


def pairs_of(rows: Sequence[dict]) -> list[tuple[float, str, str, int]]:
    """Return (share of mistakes, class, class, all mistakes) of each pair, largest first."""
    counts = np.sum([row["test"]["confusion"] for row in rows], axis=0)
    names, wrong = rows[0]["test"]["classes"], int(counts.sum() - np.trace(counts))
    both = counts + counts.T
    pairs = [
        (both[i, j] / max(wrong, 1), names[i], names[j], wrong)
        for i in range(len(names))
        for j in range(i)
    ]
    return sorted(pairs, reverse=True)


def classes(rows: dict[str, Sequence[dict]]) -> Table:
    """Return the test accuracy of each class in percent, with a column for each net.

    The first net decides the order of the classes, best first.
    """
    accuracy = {name: class_accuracy(mine) for name, mine in rows.items()}
    first = next(iter(rows.values()))
    names, order = first[0]["test"]["classes"], next(iter(accuracy.values())).argsort()[::-1]
    cells = [(names[i], *(f"{100 * own[i]:.1f}" for own in accuracy.values())) for i in order]
    return table_of(("class", *(f"{name}, %" for name in accuracy)), cells)


def ablation(rows: Sequence[dict], base: str) -> Table:
    """Return the effect of each change of `base` on validation accuracy, most harmful first.

    The effect is a mean over seeds in percentage points, where each seed is compared with the same
    seed of `base`. Beside it stands the standard error of that mean.
    """
    points = changes(rows, base)
    shared = [name for name in points if points[name]]  # variants with seeds that `base` has too
    order = sorted(shared, key=lambda name: np.mean(points[name]))
    header = (f"{base}, with one thing changed", "points of validation accuracy")
    return table_of(
        (*header, "standard error", "n"),
        [
            (name, f"{np.mean(points[name]):+.2f}", error_of(points[name]), len(points[name]))
            for name in order
        ],
    )


def error_of(values: Sequence[float]) -> str:
    """Return the standard error of a mean as a text; "" for one value."""
    return f"{deviation(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
