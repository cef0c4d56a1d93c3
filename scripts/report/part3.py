"""Part III of the report: the vanilla RNN on palindromes."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from purenets import random
from purenets.core.data.palindromes import count, is_exhaustive
from purenets.core.report.diagrams import times
from purenets.core.report.document import Section, to_print
from purenets.core.report.tables import Table, table_of
from scripts import palindrome_holdout, run_quick
from scripts import train as rnn
from scripts.figures import rnn as figures
from scripts.figures import rnn_analysis
from scripts.figures.unrolled import unrolled
from scripts.report import part3_memory as memory
from scripts.report.part3_memory import HARD, LEARNED
from scripts.report.prose import sections
from scripts.report.results import compact, in_small, parsed
from scripts.report.words import in_words, listed, power_of_ten
from scripts.shared.comparison import Difference, paired, unpaired
from scripts.shared.sweeps import deviation, spread

LENGTH = 5  # of the palindromes whose dimensions are shown
LONGEST = 40  # of the palindromes of the sweep
MEDIUM = 5.2  # inches: the width of figures of one panel
FAR_APART = 0.25  # gap between worst and best seed from which on their mean says little
ENOUGH = 0.9  # held-out accuracy above which the first halves in training count as enough
OF_LENGTHS = (
    "lengths",
    "longest",
    "spike",
    "short_falls",
    "falls_at_the_end",
    "apart",
    "above_chance",
    "longer_worse",
    "lost_clear",
    "length_matters",
)
OF_HELD_OUT = ("held-out", "same_enough", "enough_otherwise")
USES = {
    "W_hx": ("(1), every step", "D", "H"),  # sizes of what comes in and goes out: see `parameters`
    "W_hh": ("(1), every step", "H", "H"),
    "b_h": ("(1), every step", "H", "H"),
    "W_ph": ("(2), last step", "H", "K"),
    "b_o": ("(2), last step", "K", "K"),
}


def section(found: dict, quick: run_quick.Config) -> Section:
    """Return Part III, with a quick run in place of results over lengths that `found` lacks."""
    values = structure()
    if "rnn_lengths" in found:
        values |= {"quick": None} | of_lengths(found["rnn_lengths"])
        values |= of_held_out(found.get("rnn_holdout")) | memory.of_states(found.get("rnn_states"))
        values |= memory.of_ingredients(found.get("rnn_settings"), found["rnn_lengths"])
        values |= memory.of_memory(found.get("rnn_memory_why"))
        values |= memory.of_long(found.get("rnn_memory_T500"))
    else:
        missing = (*OF_LENGTHS, *OF_HELD_OUT, *memory.OF_ALL)
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
    names = ("learning_rate", "train_steps", "batch_size", "max_norm", "eval_size")
    return {name: getattr(config, name) for name in names} | {
        "hidden": config.num_hidden,
        "batch": config.batch_size,
        "length": LENGTH,
        "chance": figures.CHANCE,
        "exhaustive_T": max(T for T in range(2, 40) if is_exhaustive(T, config.eval_size)),
        **{
            f"fused_{name}": power_of_ten(fused_difference(replace(config, input_length=T - 1)))
            for name, T in (("difference", LENGTH), ("difference_long", LONGEST))
        },
        "fused_long": LONGEST,
        "rnn-parameters": parameters(model, config.batch_size),
        "rnn-formulas": dimensions(config.batch_size, *sizes),
        "rnn-dimensions": unrolled(config.batch_size, *sizes, config.input_length),
    }


def fused_difference(config: rnn.Config) -> float:
    """Return the relative difference between the gradients of the fused recurrence and the loop.

    It is the largest difference on a batch, divided by the largest gradient of the loop.
    """
    import torch

    from purenets.core.data.palindromes import palindromes
    from purenets.torch_nets import grad_fn

    T = config.input_length + 1
    batch = palindromes(random.key(1), config.batch_size, T, config.input_dim != 1)
    found = []
    for recurrence in ("loop", "fused"):
        model = rnn.make_model(replace(config, recurrence=recurrence))
        params, _ = model.init(random.key(0))
        grads, _ = grad_fn(model)(params, {}, tuple(map(torch.from_numpy, batch)), None)
        found.append(torch.cat([leaf.flatten() for leaf in grads.values()]))
    loop, fused = found
    return float((fused - loop).abs().max() / loop.abs().max())


def parameters(model, batch: int) -> Table:
    """Return a row for each parameter array: where it is used, input, output, shape, elements."""
    params, _ = model.init(random.key(0))
    (hidden, inputs), (classes, _) = params["W_hx"].shape, params["W_ph"].shape
    sizes = {"D": inputs, "H": hidden, "K": classes}
    rows = []
    for name, leaf in params.items():
        where, *ends = USES[name]
        of_batch = (f"{batch} \u00d7 {sizes[end]}" for end in ends)
        shape = " \u00d7 ".join(map(str, leaf.shape))
        rows.append((name, where, *of_batch, shape, f"{leaf.numel():,}"))
    total = f"{sum(leaf.numel() for leaf in params.values()):,}"
    header = ("parameter", "used in", "input", "output", "shape", "elements")
    return table_of(header, [*rows, ("total", "", "", "", "", total)])


def dimensions(n: int, inputs: int, hidden: int, classes: int) -> Table:
    """Return each formula of the RNN, forward and backward, with the dimensions of its arrays."""
    B, D, H, K = n, inputs, hidden, classes
    rows = [
        ("forward, t = 1 ... T - 1", r"a_t = x_t W_{hx}^\top + h_{t-1} W_{hh}^\top + b_h",
         f"({B} x {D})({D} x {H}) + ({B} x {H})({H} x {H}) = ({B} x {H})"),
        ("", r"h_t = \tanh(a_t)", f"({B} x {H})"),
        ("forward, end", r"o = h_{T-1} W_{ph}^\top + b_o",
         f"({B} x {H})({H} x {K}) = ({B} x {K})"),
        ("", r"L = - \frac{1}{N} \sum_n \log \softmax(o)_{n, y_n}", f"({B} x {K}) to a number"),
        ("backward, end", r"do = \frac{1}{N} (\softmax(o) - Q)", f"({B} x {K})"),
        ("", r"dW_{ph} = do^\top h_{T-1}", f"({K} x {B})({B} x {H}) = ({K} x {H})"),
        ("", r"db_o = \sum_n do_n", f"({K})"),
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
    first = cells[0]["history"][1]["step"]  # the first evaluation after the start
    return {
        "n": found["n"],
        "shortest": cells[0]["T"],
        "longest": longest_learned(cells),
        "at_the_end": perfect_at_the_end(cells),
        "steps": cells[0]["steps"],
        **of_spike(cells[0]),
        **of_falls(cells),
        **of_range(cells),
        "evaluations": len(cells[0]["history"]),
        "early_steps": first,
        "early": listed(f"{after(c, first):.1%} at T = {c['T']}" for c in cells if c["T"] >= HARD),
        **of_longer(next((cell for cell in cells if cell["T"] == HARD), None)),
        "lengths": to_print(figures.accuracy_over_length(cells), MEDIUM),
        "accuracies": accuracies(cells, seen),
        "rnn-curves": figures.both_curves(figures.shown(cells)),
        **of_lost(figures.shown(cells)),
        "shown_T": ", ".join(str(cell["T"]) for cell in figures.shown(cells)),
        "draws": draws,
        "all_seen": max((T for T, share in seen.items() if share > 0.9999), default=0),
        **of_fall_with_length(cells),
        "above_seen": above_seen(cells, seen),
    }


def of_fall_with_length(cells: Sequence[dict]) -> dict:
    """Return the accuracies at the shortest and the longest length, and whether the mean falls."""
    by_length = [figures.at_own_length(cell) for cell in cells]
    change = unpaired(by_length[0], by_length[-1])
    means = [found.mean() for found in by_length]
    rises = any(longer > shorter for shorter, longer in itertools.pairwise(means))
    return {
        "length_matters": change.is_clear and change.mean > 0,
        "first_accuracy": spread(list(by_length[0])),
        "last_T": cells[-1]["T"],
        "last_accuracy": spread(list(by_length[-1])),
        "with_rises": ", though not from each length to the next" if rises else "",
    }


def after(cell: dict, step: int) -> float:
    """Return the mean accuracy of the seeds after `step` steps."""
    steps = [row["step"] for row in cell["history"]]
    return float(figures.of_seeds(cell, "test_accuracy")[steps.index(step)].mean())


def of_range(cells: Sequence[dict]) -> dict:
    """Return the length from which seeds end far apart, and the worst of their best evaluations."""
    ends = [figures.at_own_length(cell) for cell in cells]
    close = [i for i, values in enumerate(ends) if np.ptp(values) < FAR_APART]
    start = max(close, default=-1) + 1
    best = [figures.of_seeds(cell, "test_accuracy").max(axis=0).min() for cell in cells]
    worst = int(np.argmin(best))
    is_apart = start < len(cells)
    return {
        "apart": is_apart,
        "apart_T": cells[start]["T"] if is_apart else None,
        "apart_lowest": f"{ends[start].min():.1%}" if is_apart else None,
        "apart_highest": f"{ends[start].max():.1%}" if is_apart else None,
        "above_chance": is_apart and bool(best[worst] > figures.CHANCE),
        "lowest_best": f"{best[worst]:.1%}",
        "lowest_best_T": cells[worst]["T"],
    }


def of_lost(cells: Sequence[dict]) -> dict:
    """Return how far the last evaluation is below the best one, paired by seed, at each length.

    `lost_clear` has the lengths at which the 95% interval of the mean excludes 0.
    """
    losses = {cell["T"]: lost(cell) for cell in cells}
    clear = [f"T = {T}" for T, change in losses.items() if change.is_clear]
    return {
        "lost": ", ".join(f"{change.points()} at T = {T}" for T, change in losses.items()),
        "lost_clear": listed(clear) if clear else None,
    }


def lost(cell: dict) -> Difference:
    """Return the best evaluation of a seed minus its last one."""
    by_seed = figures.of_seeds(cell, "test_accuracy")
    return paired(by_seed.max(axis=0), by_seed[-1])


def seen_share(T: int, draws: int) -> float:
    """Return the expected share of all palindromes of length T hit by that many uniform draws."""
    return -math.expm1(draws * math.log1p(-1 / count(T)))


def above_seen(cells: Sequence[dict], seen: dict[int, float]) -> str:
    """Return the accuracy of the best seed at each length with few palindromes in training.

    These are the lengths at which less than half of all palindromes were drawn; the share stands
    beside the accuracy.
    """
    found = [
        f"{figures.at_own_length(cell).max():.2%} at T = {cell['T']} "
        f"({shown_share(seen[cell['T']])})"
        for cell in cells
        if seen[cell["T"]] < 0.5
    ]
    return listed(found) if found else "no length"


def longest_learned(cells: Sequence[dict]) -> int | None:
    """Return the largest T up to which every seed is perfect once; None if there is none.

    Perfect once means no mistakes in some evaluation. A later one may be worse; see `lost`.
    """
    learned = None
    for cell in sorted(cells, key=lambda cell: cell["T"]):
        if figures.of_seeds(cell, "test_accuracy").max(axis=0).min() < 1:
            break
        learned = cell["T"]
    return learned


def perfect_at_the_end(cells: Sequence[dict]) -> str | None:
    """Return how many seeds are perfect at the last step, as a text with the lengths.

    Only lengths up to `longest_learned` count; None if there are none.
    """
    longest = longest_learned(cells)
    by_count: dict[int, list[int]] = {}
    for cell in sorted(cells, key=lambda cell: cell["T"]):
        if longest is not None and cell["T"] <= longest:
            perfect = int((figures.at_own_length(cell) == 1).sum())
            by_count.setdefault(perfect, []).append(cell["T"])
    texts = [
        f"{in_words(count)} at T = {' and '.join(map(str, lengths))}"
        for count, lengths in sorted(by_count.items(), reverse=True)
    ]
    return ", ".join(texts) or None


def of_spike(cell: dict) -> dict:
    """Return how many seeds are perfect at the last evaluation but one, but not at the last."""
    curves, last = figures.of_seeds(cell, "test_accuracy"), figures.at_own_length(cell)
    fell = (last < 1) & (curves[-2] == 1)
    return {
        "spike": bool(fell.any() and (fell | (last == 1)).all()),
        "spike_seeds": in_words(int(fell.sum())),
        "spike_of": in_words(len(last)),
        "spike_lowest": f"{last.min():.1%}",
    }


def of_falls(cells: Sequence[dict]) -> dict:
    """Return how often a seed without mistakes makes some at its next evaluation.

    Only lengths count that are shorter than the one from which on the seeds end far apart.
    `short_falls` is True if in each case that another evaluation follows, the seed is perfect then.
    """
    apart_T = of_range(cells)["apart_T"] or math.inf
    close = [cell for cell in cells if cell["T"] < apart_T]
    found = [(cell, *fall) for cell in close for fall in falls(cell)]
    followed = [then for *_, then in found if then is not None]
    if not found:
        return {"short_falls": None, "falls_at_the_end": None}
    deepest = min(found, key=lambda fall: fall[1])
    ended = [cell for cell in close if any(c is cell and t is None for c, _, t in found)]
    return {
        "short_falls": bool(followed) and all(then == 1 for then in followed),
        "falls_T": max(cell["T"] for cell in close),
        "falls_n": in_words(len(found)),
        "falls_lowest": f"{deepest[1]:.1%}",
        "falls_lowest_T": deepest[0]["T"],
        "falls_followed": in_words(len(followed)),
        "falls_steps": close[0]["history"][1]["step"] - close[0]["history"][0]["step"],
        "falls_at_the_end": listed(f"T = {cell['T']}" for cell in ended) if ended else None,
    }


def falls(cell: dict) -> list[tuple[float, float | None]]:
    """Return each fall of a seed from 100%: the accuracy then, and that of the next evaluation.

    The latter is None if the fall is at the last evaluation.
    """
    found = []
    for values in figures.of_seeds(cell, "test_accuracy").T.tolist():
        for before, now, then in zip(values, values[1:], [*values[2:], None], strict=False):
            if before == 1 and now < 1:
                found.append((now, then))
    return found


def of_longer(cell: dict | None) -> dict:
    """Return the change in accuracy from the best mean over the seeds to the end of training."""
    if cell is None:
        return {"longer_worse": None}
    curves = figures.of_seeds(cell, "test_accuracy")
    best = int(curves.mean(axis=1).argmax())
    change = paired(curves[-1], curves[best])
    return {
        "longer_worse": bool(change.mean < 0 and change.is_clear),
        "longer_T": cell["T"],
        "longer_best": f"{curves[best].mean():.1%}",
        "longer_best_steps": cell["history"][best]["step"],
        "longer_last": f"{curves[-1].mean():.1%}",
        "longer_change": change.points(),
    }


def accuracies(cells: Sequence[dict], seen: dict[int, float] | None = None) -> Table:
    """Return a row for each length: accuracy over the seeds, and the share drawn in training."""
    rows = []
    for cell in cells:
        values = figures.at_own_length(cell)
        found = (values.mean(), deviation(values), values.min(), best_evaluation(cell))
        texts = ["" if value is None else f"{value:.1%}" for value in found]
        over = int((values > LEARNED).sum())
        more = [shown_share(seen[cell["T"]])] if seen else []
        rows.append((cell["T"], *texts, over, len(values), *more))
    more = ("drawn in training",) if seen else ()
    header = ("T", "mean", "SD (n - 1)", "worst seed", "mean of best evaluations")
    header = (*header, f"seeds over {LEARNED:.0%}", "n")
    return table_of((*header, *more), rows)


def best_evaluation(cell: dict) -> float | None:
    """Return each seed's best accuracy, averaged over the seeds; None without a history."""
    if "history" not in cell:
        return None
    return float(figures.of_seeds(cell, "test_accuracy").max(axis=0).mean())


def shown_share(share: float) -> str:
    """Return a share in percent with two decimals; "<0.01%" if it is smaller."""
    return f"{share:.2%}" if share > 1e-4 else "<0.01%"


# --- memorizing and generalizing ------------------------------------------------------------------


def of_held_out(found: dict | None) -> dict:
    """Return the values of palindromes with held-out first halves; None if they are missing."""
    if found is None:
        return dict.fromkeys(OF_HELD_OUT)
    cells = found["cells"]
    T = max(cell["T"] for cell in cells)
    mine = sorted((c for c in cells if c["T"] == T), key=lambda cell: cell["halves"])
    few, many = mine[0], mine[-1]
    return {
        "held-out": rnn_analysis.held_out(cells),
        "held-out-table": compact(palindrome_holdout.table(cells)),
        "held_out_n": found["n"],
        "held_out_evaluated": parsed(palindrome_holdout.Config, found).eval_size,
        "held_out_steps": cells[0]["steps"],
        "held_out_T": T,
        "held_out_part": palindrome_holdout.HELD_OUT,
        "few": few["halves"],
        "few_train": spread(few["train"], digits=1),
        "few_gap": palindrome_holdout.gap(few).points(),
        "few_held_out": spread(few["held_out"], digits=1),
        "many": many["halves"],
        "many_held_out": spread(many["held_out"], digits=1),
        "many_gap": palindrome_holdout.gap(many).points(),
        **of_enough(cells),
    }


def of_enough(cells: Sequence[dict]) -> dict:
    """Return how many first halves are enough for held-out palindromes, at each length.

    `same_enough` is True if the smallest number that is enough, and the largest one below it, are
    the same at every length.
    """
    lengths = sorted({cell["T"] for cell in cells})
    reached = {(c["T"], c["halves"]): c["held_out"] for c in cells}
    both = {T: fewest_and_too_few(cells, T) for T in lengths}
    (enough, too_few), *others = both.values()
    same = None not in (enough, too_few) and all(pair == (enough, too_few) for pair in others)
    values = {
        "same_enough": same,
        "enough_otherwise": not same,
        "enough_accuracy": ENOUGH,
        "enough_each": listed(f"{in_thousands(n)} at T = {T}" for T, (n, _) in both.items()),
    }
    if not same:
        return values
    shares = [f"{enough / count(T):.1%} of all at T = {T}" for T in lengths]
    found = [f"{spread(reached[T, enough], digits=1)}% at T = {T}" for T in lengths]
    return values | {
        "enough": enough,
        "too_few": too_few,
        "enough_shares": listed(shares),
        "enough_reached": listed(found),
    }


def fewest_and_too_few(cells: Sequence[dict], T: int) -> tuple[int | None, int | None]:
    """Return the smallest number of first halves that is enough, and the largest one below it.

    Each is None if there is none.
    """
    mine = sorted((cell["halves"], np.mean(cell["held_out"])) for cell in cells if cell["T"] == T)
    enough = min((halves for halves, accuracy in mine if accuracy > ENOUGH), default=None)
    too_few = max((halves for halves, _ in mine if enough and halves < enough), default=None)
    return enough, too_few


def in_thousands(n: int | None) -> str:
    """Return a number with commas; "more than these" for None."""
    return "more than these" if n is None else f"{n:,}"
