"""The tables of Part III, from the cells of a sweep over palindromes and from live networks."""

from collections.abc import Sequence

import numpy as np

from purenets import Params
from purenets.core.report.tables import Table, table_of
from scripts import train as rnn
from scripts.figures.rnn import at_own_length, of_seeds
from scripts.shared.sweeps import MEAN_SD, spread

USES = {
    "W_hx": "(1), every step",
    "W_hh": "(1), every step",
    "b_h": "(1), every step",
    "W_ph": "(2), last step",
    "b_o": "(2), last step",
}


def parameters(params: Params) -> Table:
    """Return the shape and the size of each param, and the equation that uses it."""
    rows = [
        (name, tuple(leaf.shape), f"{leaf.numel():,}", USES[name]) for name, leaf in params.items()
    ]
    total = sum(leaf.numel() for leaf in params.values())
    return table_of(
        ("param", "shape", "elements", "used in"), [*rows, ("all", "", f"{total:,}", "")]
    )


def dimensions(config: rnn.Config) -> Table:
    """Return every product of the forward and the backward pass with its dimensions."""
    B, D, H, K = config.batch_size, config.input_dim, config.num_hidden, config.num_classes
    a = f"({B}, {D})({D}, {H}) + ({B}, {H})({H}, {H}) + ({H},) → ({B}, {H})"
    rows = [
        ("forward, t = 1 ... N", "a(t) = x(t) W_hxᵀ + h(t-1) W_hhᵀ + b_h", a),
        ("", "h(t) = tanh a(t)", f"({B}, {H})"),
        ("forward, end", "o = h(N) W_phᵀ + b_o", f"({B}, {H})({H}, {K}) + ({K},) → ({B}, {K})"),
        ("", "L = mean cross-entropy of softmax(o) and y", f"({B}, {K}), ({B},) → scalar"),
        ("backward, end", "do = (softmax(o) - onehot(y)) / B", f"({B}, {K})"),
        ("", "dW_ph = doᵀ h(N), db_o = Σ rows do", f"({K}, {B})({B}, {H}) → ({K}, {H}); ({K},)"),
        ("", "dh(N) = do W_ph", f"({B}, {K})({K}, {H}) → ({B}, {H})"),
        ("backward, t = N ... 1", "da(t) = dh(t) · (1 - h(t)²)", f"({B}, {H})"),
        ("", "dW_hx += da(t)ᵀ x(t)", f"({H}, {B})({B}, {D}) → ({H}, {D})"),
        ("", "dW_hh += da(t)ᵀ h(t-1)", f"({H}, {B})({B}, {H}) → ({H}, {H})"),
        ("", "db_h += Σ rows da(t)", f"({H},)"),
        ("", "dh(t-1) = da(t) W_hh", f"({B}, {H})({H}, {H}) → ({B}, {H})"),
    ]
    return table_of(("", "operation", "dimensions"), rows)


def lengths(cells: Sequence[dict]) -> Table:
    """Return a row for each length: accuracy at the end, and at each seed's best evaluation.

    It also counts the seeds that end at 99% or above, at chance, and near a multiple of a tenth.
    """
    header = (
        *("T", "evaluated on", f"accuracy, % ({MEAN_SD})", "best evaluation, %"),
        *("at least 99%", "at chance", "below 99%, within 1.5 points of a tenth", "n"),
    )
    return table_of(header, map(of_length, cells))


def of_length(cell: dict) -> tuple:
    """Return the row of a length; chance is 10%, and below 12% counts as chance."""
    values, best = at_own_length(cell), of_seeds(cell, "test_accuracy").max(axis=0)
    below = values[values < 0.99]
    tenths = np.abs(below * 10 - np.round(below * 10)) < 0.15
    everything = cell["accuracy"][str(cell["T"])]["exhaustive"]
    return (
        cell["T"],
        "all palindromes" if everything else "fresh palindromes",
        spread(values, digits=1),
        spread(best, digits=1),
        int((values >= 0.99).sum()),
        int((values < 0.12).sum()),
        f"{int(tenths.sum())} of {len(below)}",
        len(values),
    )


def ingredients(cells: Sequence[dict]) -> Table:
    """Return the accuracy of each setting, with a column for each length."""
    names, Ts = (list(dict.fromkeys(cell[key] for cell in cells)) for key in ("setting", "T"))
    found = {(cell["setting"], cell["T"]): at_own_length(cell) for cell in cells}
    header = ("setting", *(f"T = {T}, % ({MEAN_SD})" for T in Ts), "n")
    n = min(len(values) for values in found.values())
    rows = [(name, *(spread(found[name, T], digits=1) for T in Ts), n) for name in names]
    return table_of(header, rows)


def evaluated(cells: Sequence[dict], names: dict[str, str] | None = None) -> Table:
    """Return the accuracy of each cell at each length that it was evaluated at."""
    Ts = sorted({int(T) for cell in cells for T in cell["accuracy"]})
    header = (f"setting; accuracy, % ({MEAN_SD})", "trained at T", *Ts)
    rows = [
        (
            (names or {}).get(cell["setting"], cell["setting"]),
            cell["T"],
            *(spread(by_seed(cell, T), digits=1) for T in Ts),
        )
        for cell in cells
    ]
    return table_of(header, rows)


def by_seed(cell: dict, T: int) -> list[float]:
    """Return the accuracy of each seed at a length; [None] if it was not evaluated there."""
    return cell["accuracy"].get(str(T), {"by_seed": [None]})["by_seed"]


def worst_seeds(cells: Sequence[dict]) -> Table:
    """Return the worst seed of each cell at each length, and how many seeds reach 99%."""
    rows = [
        (
            cell["T"],
            T,
            f"{min(by_seed(cell, T)):.2%}",
            f"{over(by_seed(cell, T))} of {len(by_seed(cell, T))}",
        )
        for cell in cells
        for T in sorted(map(int, cell["accuracy"]))
    ]
    return table_of(
        ("trained at T", "evaluated at T", "worst seed", "seeds with at least 99%"), rows
    )


def over(values: Sequence[float], level: float = 0.99) -> int:
    return sum(value >= level for value in values)


def spectra(radii: dict[str, Sequence[float]], leading: dict[str, Sequence[float]]) -> Table:
    """Return spectral radius of W_hh and largest singular value of the product of Jacobians.

    Both arguments are {net: (before, after training)}.
    """
    header = (
        *("net", "spectral radius of W_hh: before", "after training"),
        *("largest singular value of the product over 16 steps: before", "after training"),
    )
    rows = [
        (net, *(f"{r:.2f}" for r in radii[net]), *(f"{s:.1e}" for s in leading[net]))
        for net in radii
    ]
    return table_of(header, rows)


def decay(norms: dict[str, dict[str, np.ndarray]]) -> Table:
    """Return how much the gradient of the loss shrinks from the last hidden state to the first.

    Given are its norm at both ends, and the geometric mean of the factors of all steps back.
    `norms` is {net: {when: norms over t}}.
    """
    rows = [
        (net, when, f"{v[0]:.1e}", f"{v[-1]:.1e}", f"{(v[0] / v[-1]) ** (1 / (len(v) - 1)):.2f}")
        for net, curves in norms.items()
        for when, v in curves.items()
    ]
    header = ("net", "", "at t = 1", "at the last t", "factor of each step back")
    return table_of(header, rows)


def mistakes(counts: np.ndarray) -> Table:
    """Return how far apart confused digits are, compared with what chance would give."""
    distance = np.abs(np.arange(10)[:, None] - np.arange(10))
    wrong = counts * (distance > 0)
    total, off = max(int(wrong.sum()), 1), (distance > 0).sum()
    rows = [
        (d, f"{wrong[distance == d].sum() / total:.1%}", f"{(distance == d).sum() / off:.1%}")
        for d in range(1, 10)
    ]
    right = f"share of the {int(wrong.sum())} mistakes among {int(counts.sum())}"
    return table_of(("digits apart", right, "by chance"), rows)
