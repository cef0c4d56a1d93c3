"""Part III of the report: the vanilla RNN on palindromes."""

import math
from collections.abc import Sequence

import numpy as np

from purenets import random
from purenets.core.data.palindromes import count
from purenets.core.report.diagrams import times
from purenets.core.report.document import Section, to_print
from purenets.core.report.tables import Table, table_of
from scripts import palindrome_holdout, palindrome_states, run_quick
from scripts import train as rnn
from scripts.figures import rnn as figures
from scripts.figures import rnn_analysis
from scripts.figures.unrolled import unrolled
from scripts.report.prose import sections
from scripts.report.results import compact, in_small
from scripts.shared.comparison import Difference, paired, unpaired
from scripts.shared.sweeps import deviation, spread

LENGTH = 5  # of the palindromes whose dimensions are shown
SMALL, MEDIUM = 4.4, 5.2  # inches: the widths of figures of one panel
SUPERSCRIPTS = "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
HARD = 20  # the length at which ingredients are told apart
USES = {
    "W_hx": "(1), every step",
    "W_hh": "(1), every step",
    "b_h": "(1), every step",
    "W_ph": "(2), last step",
    "b_o": "(2), last step",
}


def section(found: dict, quick: run_quick.Config) -> Section:
    """Return Part III; from a quick run where the results over lengths are not in `found`."""
    values = structure()
    if "rnn_lengths" in found:
        values |= {"quick": None} | of_lengths(found["rnn_lengths"])
        values |= of_held_out(found.get("rnn_holdout")) | of_states(found.get("rnn_states"))
        values |= of_ingredients(found.get("rnn_settings"))
        values |= of_memory(found.get("rnn_memory_why"))
    else:
        missing = ("lengths", "longest", "held-out", "gradients", "ingredients", "memory")
        values |= {"quick": in_small(run_quick.part3, quick)} | dict.fromkeys(missing)
    (part,) = sections("part3", values)
    return part


# --- structure ------------------------------------------------------------------------------------


def structure() -> dict:
    """Return the values of the network and its training."""
    from purenets.torch_nets import VanillaRNN

    config = rnn.Config(input_length=LENGTH - 1)
    sizes = (config.input_dim, config.num_hidden, config.num_classes)
    model = VanillaRNN(config.input_length, *sizes)
    names = ("learning_rate", "train_steps", "batch_size", "max_norm")
    return {name: getattr(config, name) for name in names} | {
        "hidden": config.num_hidden,
        "batch": config.batch_size,
        "length": LENGTH,
        "rnn-parameters": parameters(model),
        "rnn-formulas": dimensions(config.batch_size, *sizes),
        "rnn-dimensions": unrolled(config.batch_size, *sizes, config.input_length),
    }


def parameters(model) -> Table:
    """Return a row for each parameter array: its shape, its elements, and where it is used."""
    params, _ = model.init(random.key(0))
    rows = [
        (name, " \u00d7 ".join(map(str, leaf.shape)), f"{leaf.numel():,}", USES[name])
        for name, leaf in params.items()
    ]
    total = ("total", "", f"{sum(leaf.numel() for leaf in params.values()):,}", "")
    return table_of(("parameter", "shape", "elements", "used in"), [*rows, total])


def dimensions(n: int, inputs: int, hidden: int, classes: int) -> Table:
    """Return each formula of the RNN, forward and backward, with the dimensions of its arrays."""
    B, D, H, K = n, inputs, hidden, classes
    rows = [
        ("forward, t = 1 ... T - 1", r"a_t = x_t W_{hx}^\top + h_{t-1} W_{hh}^\top + b_h",
         f"({B} x {D})({D} x {H}) + ({B} x {H})({H} x {H}) = ({B} x {H})"),
        ("", r"h_t = \tanh(a_t)", f"({B} x {H})"),
        ("forward, end", r"o = h_{T-1} W_{ph}^\top + b_o",
         f"({B} x {H})({H} x {K}) = ({B} x {K})"),
        ("", r"L = - \frac{1}{B} \sum_n \log \softmax(o)_{n, y_n}", f"({B} x {K}) to a number"),
        ("backward, end", r"do = \frac{1}{B} (\softmax(o) - Y)", f"({B} x {K})"),
        ("", r"dW_{ph} = do^\top h_{T-1}, \quad db_o = \sum_n do_n",
         f"({K} x {B})({B} x {H}) = ({K} x {H})"),
        ("", r"dh_{T-1} = do \, W_{ph}", f"({B} x {K})({K} x {H}) = ({B} x {H})"),
        ("backward, t = T - 1 ... 1", r"da_t = dh_t \odot (1 - h_t \odot h_t)", f"({B} x {H})"),
        ("", r"dW_{hh} \leftarrow dW_{hh} + da_t^\top h_{t-1}",
         f"({H} x {B})({B} x {H}) = ({H} x {H})"),
        ("", r"dW_{hx} \leftarrow dW_{hx} + da_t^\top x_t",
         f"({H} x {B})({B} x {D}) = ({H} x {D})"),
        ("", r"db_h \leftarrow db_h + \sum_n da_{t,n}", f"({H})"),
        ("", r"dh_{t-1} = da_t W_{hh}", f"({B} x {H})({H} x {H}) = ({B} x {H})"),
    ]  # fmt: skip
    lines = [(when, f"$`{tex}`$", times(shapes)) for when, tex, shapes in rows]
    return table_of(("pass", "formula", "dimensions"), lines)


# --- accuracy over the length ---------------------------------------------------------------------


def of_lengths(found: dict) -> dict:
    """Return the values of the accuracy over the length."""
    cells = sorted(found["cells"], key=lambda cell: cell["T"])
    config = rnn.Config()
    draws = cells[0]["steps"] * config.batch_size
    seen = {cell["T"]: seen_share(cell["T"], draws) for cell in cells}
    last = figures.at_own_length(cells[-1])
    return {
        "n": found["n"],
        "shortest": cells[0]["T"],
        "longest": longest_learned(cells),
        "lengths": to_print(figures.accuracy_over_length(cells), MEDIUM),
        "accuracies": accuracies(cells, seen),
        "rnn-curves": figures.both_curves(figures.shown(cells)),
        "lost": lost(figures.shown(cells)),
        "shown_T": ", ".join(str(cell["T"]) for cell in figures.shown(cells)),
        "draws": draws,
        "all_seen": max((T for T, share in seen.items() if share > 0.9999), default=0),
        "last_T": cells[-1]["T"],
        "last_accuracy": spread(list(last)),
        "above_seen": above_seen(cells, seen),
    }


def lost(cells: Sequence[dict]) -> str:
    """Return how far each length's last evaluation is below the best one, seed by seed."""
    texts = []
    for cell in cells:
        by_seed = figures.of_seeds(cell, "test_accuracy")
        change = paired(by_seed.max(axis=0), by_seed[-1]).points()
        texts.append(f"{change} at T = {cell['T']}")
    return ", ".join(texts)


def seen_share(T: int, draws: int) -> float:
    """Return the part of all palindromes of length T that so many uniform draws are to hit."""
    return -math.expm1(draws * math.log1p(-1 / count(T)))


def above_seen(cells: Sequence[dict], seen: dict[int, float]) -> str:
    """Return where the best seed is right more often than it can have seen palindromes."""
    found = [
        f"T = {cell['T']} (best seed {figures.at_own_length(cell).max():.1%}, seen "
        f"{shown_share(seen[cell['T']])})"
        for cell in cells
        if seen[cell["T"]] < 0.9999 and figures.at_own_length(cell).max() > 0.5 + seen[cell["T"]]
    ]
    return ", ".join(found) or "no length"


def longest_learned(cells: Sequence[dict]) -> int | None:
    """Return the largest T up to which every seed once makes no mistake; None if there is none.

    A later evaluation may be worse again: `lost`.
    """
    learned = None
    for cell in sorted(cells, key=lambda cell: cell["T"]):
        if figures.of_seeds(cell, "test_accuracy").max(axis=0).min() < 1:
            break
        learned = cell["T"]
    return learned


def accuracies(cells: Sequence[dict], seen: dict[int, float] | None = None) -> Table:
    """Return a row for each length: the accuracy over the seeds, and what was seen in training."""
    rows = []
    for cell in cells:
        values = figures.at_own_length(cell)
        found = (values.mean(), deviation(values), values.min(), values.max())
        texts = ["" if value is None else f"{value:.1%}" for value in found]
        more = [shown_share(seen[cell["T"]])] if seen else []
        rows.append((cell["T"], *texts, len(values), *more))
    more = ("seen in training",) if seen else ()
    header = ("T", "mean accuracy", "SD (n - 1)", "worst seed", "best seed", "n", *more)
    return table_of(header, rows)


def shown_share(share: float) -> str:
    """Return a share in percent: in full digits down to a hundredth, below in powers of ten."""
    return f"{share:.2%}" if share > 1e-4 else f"{power_of_ten(100 * share)}%"


def power_of_ten(value: float) -> str:
    """Return a small number as a digit times a power of ten.

    >>> power_of_ten(2.2e-8)
    '2 \u00d7 10\u207b\u2078'
    """
    digit, exponent = f"{value:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", SUPERSCRIPTS))
    return f"{digit} \u00d7 10{raised}"


# --- memorizing and generalizing ------------------------------------------------------------------


def of_held_out(found: dict | None) -> dict:
    """Return the values of palindromes with held-out first halves; None if they are missing."""
    if found is None:
        return {"held-out": None}
    cells = found["cells"]
    T = max(cell["T"] for cell in cells)
    mine = sorted((c for c in cells if c["T"] == T), key=lambda cell: cell["halves"])
    few, many = mine[0], mine[-1]
    return {
        "held-out": rnn_analysis.held_out(cells),
        "held-out-table": compact(palindrome_holdout.table(cells)),
        "held_out_n": found["n"],
        "held_out_T": T,
        "held_out_part": palindrome_holdout.HELD_OUT,
        "few": few["halves"],
        "few_train": spread(few["train"], digits=1),
        "few_gap": palindrome_holdout.gap(few).points(),
        "few_held_out": spread(few["held_out"], digits=1),
        "many": many["halves"],
        "many_held_out": spread(many["held_out"], digits=1),
        "many_gap": palindrome_holdout.gap(many).points(),
        "enough": " and ".join(enough(cells, T) for T in sorted({c["T"] for c in cells})),
    }


def enough(cells: Sequence[dict], T: int) -> str:
    """Return the fewest first halves from which on held-out palindromes are nearly all right."""
    good = [c["halves"] for c in cells if c["T"] == T and np.mean(c["held_out"]) > 0.9]
    fewest = f"{min(good):,}" if good else "more than these"
    return f"{fewest} at T = {T} (of {count(T):,})"


# --- gradients, hidden states and latches ---------------------------------------------------------


def of_states(found: dict | None) -> dict:
    """Return the values of gradients over time and of what hidden states hold."""
    if found is None:
        return {"gradients": None}
    cells = found["cells"]
    default = [cell for cell in cells if cell["setting"] == "default"]
    latches = next(cell for cell in cells if cell["setting"] == "latches")
    longest, shortest = default[-1], default[0]
    back = longest["T"] - 2
    shares = palindrome_states.reach(longest["before"])
    factors = np.exp(np.log(shares) / back)
    return {
        "gradients": rnn_analysis.gradients(cells),
        "readable": rnn_analysis.readable(cells),
        "planes": rnn_analysis.planes(cells),
        "states": compact(palindrome_states.table(cells)),
        "states_n": found["n"],
        "back": back,
        "back_T": longest["T"],
        "back_share": power_of_ten(float(np.exp(np.log(shares).mean()))),
        "back_factor": f"{factors.mean():.3f} ± {deviation(factors):.3f}",
        "radius_before": told(longest["before"]["radius"]),
        "radius_after": told(shortest["after"]["radius"]),
        "radius_T": shortest["T"],
        "default_at": palindrome_states.SHOWN[-1],
        "default_told": spread(at_time(shortest, "after"), digits=1),
        "untrained_told": spread(at_time(shortest, "before"), digits=1),
        "latches_untrained": spread(at_time(latches, "before"), digits=1),
        "latches_told": spread(at_time(latches, "after"), digits=1),
        "latches_T": latches["T"],
        "read_on": palindrome_states.READ,
        "latches_end": spread([s[-1] for s in latches["after"]["readable"]], digits=1),
    }


def told(values: Sequence[float]) -> str:
    """Return mean and deviation of numbers that are no percentages."""
    return f"{np.mean(values):.2f} ± {deviation(values):.2f}"


def at_time(cell: dict, when: str) -> list[float]:
    """Return how often the first digit is read from the state at the last of the times SHOWN."""
    return [values[palindrome_states.SHOWN[-1] - 1] for values in cell[when]["readable"]]


# --- what lifts it --------------------------------------------------------------------------------


def of_ingredients(found: dict | None) -> dict:
    """Return the values of the comparison of ingredients at the length HARD."""
    if found is None:
        return {"ingredients": None}
    own = {
        cell["setting"]: figures.at_own_length(cell) for cell in found["cells"] if cell["T"] == HARD
    }
    pairs = {
        "orthogonal": ("scalar-orthogonal", "default"),
        "onehot": ("onehot", "default"),
        "frozen": ("onehot-orthogonal-frozen", "onehot-orthogonal"),
    }
    changes = {name: unpaired(own[a], own[b]).points() for name, (a, b) in pairs.items()}
    return {
        "ingredients": to_print(figures.heatmap(found["cells"]), SMALL),
        "ingredients_n": found["n"],
        "hard": HARD,
        **{f"from_{name}": text for name, text in changes.items()},
        **of_clipping(own),
    }


def of_clipping(own: dict[str, np.ndarray]) -> dict:
    """Return the largest effect of clipping in standard errors, over all settings that have it."""
    unclipped = {
        name: ("scalar-unclipped" if name == "default" else f"{name}-unclipped") for name in own
    }
    effects = {
        name: unpaired(own[name], own[other]) for name, other in unclipped.items() if other in own
    }
    largest: Difference = max(effects.values(), key=lambda change: change.errors)
    return {"clipping": largest.points(), "clipping_errors": largest.errors}


def of_memory(found: dict | None) -> dict:
    """Return the values of networks trained at one length and evaluated at others."""
    if found is None:
        return {"memory": None}
    cells = {cell["setting"]: cell for cell in found["cells"]}
    longest = max(map(int, cells["latches"]["accuracy"]))

    def far(setting: str) -> list[float]:
        return cells[setting]["accuracy"][str(longest)]["by_seed"]

    return {
        "memory": figures.memory(found["cells"]),
        "memory_n": found["n"],
        "memory_T": found["cells"][0]["T"],
        "memory_longest": longest,
        "latches_worst": min(far("latches")),
        "latches_gain": unpaired(far("latches"), far("onehot")).points(),
        "frozen_loss": unpaired(far("latches-frozen"), far("latches")).points(),
        "gain1": spread(far("latches-gain1"), digits=1),
        "rotation": spread(far("latches-orthogonal"), digits=1),
        "rotation_own": spread(
            cells["latches-orthogonal"]["accuracy"][str(cells["latches-orthogonal"]["T"])][
                "by_seed"
            ],
            digits=1,
        ),
    }
