"""Part III: why the RNN forgets the first digit, and what lets it remember.

The topics are gradients and hidden states, the ingredients of training, and networks that remember
far beyond the length that they were trained at.
"""

from collections.abc import Sequence

import numpy as np

from purenets.core.report.tables import Table, table_of
from scripts import palindrome_states, palindrome_sweep
from scripts import train as rnn
from scripts.figures import rnn as figures
from scripts.figures import rnn_analysis
from scripts.report.results import compact, parsed
from scripts.report.words import in_digits, in_words, listed, power_of_ten
from scripts.shared.comparison import paired
from scripts.shared.sweeps import deviation, spread

HARD = 20  # the length at which ingredients are compared
LEARNED = 0.99  # the accuracy from which on a seed has learned
FAILED = 0.5  # the accuracy below which a seed of the latches has failed
OF_STATES = ("gradients", "untrained_at_chance", "untrained_above_chance", "radius_not_enough")
OF_INGREDIENTS = (
    "ingredients",
    "ingredients_unclear",
    "slower",
    "frozen_unclear",
    "frozen_otherwise",
)
OF_INGREDIENTS += ("unclipped_higher", "unclipped_unclear", "unclipped_otherwise")
OF_MEMORY = ("memory", "unstable", "stable", "below_chance")
OF_ALL = (*OF_STATES, *OF_INGREDIENTS, *OF_MEMORY, "long_T")
INPUTS = {1: "numbers", 10: "one-hot"}  # how a digit is fed, by the size of the input
PANELS = {  # titles of the figure of memory, and what each setting changes
    "One-hot digits, W_hh begins as a multiple of the identity I": {
        "latches": "2 I (latches)",
        "latches-gain1": "I",
        "latches-gain1.5": "1.5 I",
        "latches-gain3": "3 I",
        "latches-frozen": "2 I, never trained",
    },
    "Other inputs and other beginnings": {
        "latches-scalar": "2 I, digits as numbers",
        "latches-orthogonal": "2 times orthogonal",
        "small-input-orthogonal": "orthogonal, small input",
        "onehot": "default, one-hot",
    },
}
NAMES = {"orthogonal": "the orthogonal W_hh", "onehot": "one-hot digits"}

# --- gradients, hidden states and latches ---------------------------------------------------------


def of_states(found: dict | None) -> dict:
    """Return the values of gradients over time and of what hidden states hold."""
    if found is None:
        return dict.fromkeys(OF_STATES)
    cells = found["cells"]
    default = [cell for cell in cells if cell["setting"] == "default"]
    latches = next(cell for cell in cells if cell["setting"] == "latches")
    longest, shortest = default[-1], default[0]
    back = longest["T"] - 2
    shares = palindrome_states.reach(longest["before"])
    factors = np.exp(np.log(shares) / back)
    config = parsed(palindrome_states.Config, found)
    fitted_on = config.examples // 2
    return {
        "gradients": rnn_analysis.gradients(cells),
        "readable": rnn_analysis.readable(cells),
        "planes": rnn_analysis.planes(cells),
        "states": compact(palindrome_states.table(cells)),
        "states_n": found["n"],
        "states_steps": cells[0]["steps"],
        **of_untrained(shortest),
        **of_reach(default),
        "fitted_on": fitted_on,
        "tested_on": config.examples - fitted_on,
        "plane_seed": config.first_seed,
        "latches_plane": plane_share(latches),
        "default_plane": plane_share(shortest),
        "back": back,
        "back_T": longest["T"],
        "back_share": power_of_ten(palindrome_states.geometric_mean(shares)),
        "back_factor": f"{factors.mean():.3f} ± {deviation(factors):.3f}",
        "radius_before": told(longest["before"]["radius"]),
        "radius_after": told(shortest["after"]["radius"]),
        "radius_T": shortest["T"],
        "default_at": palindrome_states.SHOWN[-1],
        "default_told": spread(at_time(shortest, "after"), digits=1),
        "latches_untrained": spread(at_time(latches, "before"), digits=1),
        "latches_told": spread(at_time(latches, "after"), digits=1),
        "latches_T": latches["T"],
        "read_on": palindrome_states.READ,
        "latches_end": spread([s[-1] for s in latches["after"]["readable"]], digits=1),
    }


def of_reach(default: Sequence[dict]) -> dict:
    """Return how much gradient reaches the first digit, and how the spectral radius changes that.

    `radius_not_enough` is True if, at the longest length, the radius is above 1 after training, but
    the gradient at the first digit is not clearly larger.
    """
    longest = default[-1]
    shares = [palindrome_states.reach(longest[when]) for when in palindrome_states.TIMES]
    before, after = map(palindrome_states.geometric_mean, shares)
    decades = paired(*(np.log10(share) for share in reversed(shares)))
    reached = [
        f"{in_digits(palindrome_states.geometric_mean(palindrome_states.reach(cell['after'])))} "
        f"at T = {cell['T']}"
        for cell in default
    ]
    radius = np.mean(longest["after"]["radius"])
    return {
        "reached": listed(reached),
        "radius_not_enough": bool(radius > 1 and not (decades.mean > 0 and decades.is_clear)),
        "radius_longest": told(longest["after"]["radius"]),
        "reach_before": in_digits(before),
        "reach_after": in_digits(after),
        "reach_lowest": in_digits(shares[1].min()),
        "reach_highest": in_digits(shares[1].max()),
        "reach_decades": f"{decades.mean:+.1f} ± {decades.standard_error:.1f}",
    }


def plane_share(cell: dict) -> str:
    """Return the share of points whose nearest class mean is that of their own digit, as a text.

    The points are those of the drawn plane, at the last two times.
    """
    digits, points = np.array(cell["plane"]["digits"]), np.array(cell["plane"]["points"])
    times = cell["plane"]["times"]
    return listed(
        f"{nearest_share(points[:, i], digits):.0%} (t = {times[i]})"
        for i in range(len(times) - 2, len(times))
    )


def nearest_share(points: np.ndarray, digits: np.ndarray) -> float:
    """Return the share of points whose nearest class mean is that of their own digit.

    The means leave out the point itself.
    """
    right = 0
    for i, (point, digit) in enumerate(zip(points, digits, strict=True)):
        others = np.arange(len(points)) != i
        known = np.unique(digits[others])
        means = np.stack([points[others & (digits == d)].mean(axis=0) for d in known])
        right += known[np.linalg.norm(means - point, axis=1).argmin()] == digit
    return float(right / len(points))


def of_untrained(cell: dict) -> dict:
    """Return how often an untrained state predicts the first digit, and whether by chance."""
    values = at_time(cell, "before")
    at_chance = abs(np.mean(values) - figures.CHANCE) < 2 * deviation(values)
    return {
        "untrained_told": spread(values, digits=1),
        "untrained_at_chance": bool(at_chance),
        "untrained_above_chance": not at_chance,
    }


def told(values: Sequence[float]) -> str:
    """Return mean ± standard deviation of numbers that are not percentages."""
    return f"{np.mean(values):.2f} ± {deviation(values):.2f}"


def at_time(cell: dict, when: str) -> list[float]:
    """Return how often the first digit is predicted from the state at the last time of SHOWN."""
    return [values[palindrome_states.SHOWN[-1] - 1] for values in cell[when]["readable"]]


# --- what lifts it --------------------------------------------------------------------------------


def of_ingredients(found: dict | None, lengths: dict) -> dict:
    """Return the values of the comparison of ingredients at the length HARD."""
    if found is None:
        return dict.fromkeys(OF_INGREDIENTS)
    own = {
        cell["setting"]: figures.at_own_length(cell) for cell in found["cells"] if cell["T"] == HARD
    }
    pairs = {
        "orthogonal": ("scalar-orthogonal", "default"),
        "onehot": ("onehot", "default"),
    }
    changes = {name: paired(own[a], own[b]) for name, (a, b) in pairs.items()}
    unclear = [NAMES[name] for name, change in changes.items() if not change.is_clear]
    return {
        "ingredients": ingredients(found["cells"]),
        "ingredients_n": found["n"],
        "ingredients_evaluated": parsed(palindrome_sweep.Config, found).eval_size,
        "ingredients_steps": found["cells"][0]["steps"],
        "default_hard": spread(own["default"], digits=1),
        "slower": is_slower(own["default"], lengths["cells"]),
        "hard": HARD,
        **{f"from_{name}": change.points() for name, change in changes.items()},
        "ingredients_unclear": listed(unclear) if unclear else None,
        **of_frozen(own["onehot-orthogonal-frozen"], own["onehot-orthogonal"]),
        **of_clipping(own),
    }


def ingredients(cells: Sequence[dict]) -> Table:
    """Return a row for each combination of ingredients, with its accuracy at each length."""
    settings = list(dict.fromkeys(cell["setting"] for cell in cells))
    lengths = sorted({cell["T"] for cell in cells})
    found = {(cell["setting"], cell["T"]): figures.at_own_length(cell) for cell in cells}
    header = ("input", "W_hh begins", "W_hh is", "clipping at", *(f"T = {T}, %" for T in lengths))
    rows = [
        (*of_setting(name), *(spread(found[name, T], digits=1) for T in lengths))
        for name in settings
    ]
    return table_of(header, rows)


def of_setting(name: str) -> tuple[str, ...]:
    """Return the ingredients of a setting: input, initialization, frozen or not, clipping.

    >>> of_setting("onehot-orthogonal-unclipped")
    ('one-hot', 'orthogonal', 'trained', 'none')
    """
    config = rnn.Config(**palindrome_sweep.SETTINGS[name])
    trained = "frozen" if config.freeze_recurrence else "trained"
    clipping = f"{config.max_norm:g}" if config.max_norm else "none"
    return INPUTS[config.input_dim], config.init, trained, clipping


def is_slower(default: np.ndarray, cells: Sequence[dict]) -> bool:
    """Return whether the default has a higher accuracy at length HARD with more steps."""
    longer = [cell for cell in cells if cell["T"] == HARD]
    means = [figures.of_seeds(cell, "test_accuracy").mean(axis=1).max() for cell in longer]
    return bool(means and means[0] > default.mean())


def of_frozen(frozen: np.ndarray, trained: np.ndarray) -> dict:
    """Return the effect of freezing W_hh with one-hot digits and an orthogonal start."""
    change, failed = paired(frozen, trained), int((trained < LEARNED).sum())
    unclear = frozen.min() >= LEARNED and failed > 0 and not change.is_clear
    return {
        "frozen_unclear": unclear,
        "frozen_otherwise": not unclear,
        "from_frozen": change.points(),
        "frozen_worst": worst_of(frozen),
        "frozen_failed": in_words(failed),
        "frozen_worst_trained": f"{trained.min():.1%}",
        "frozen_seeds": in_words(len(trained)),
    }


def worst_of(values: np.ndarray) -> str:
    """Return the lowest accuracy, which is a bound if the seeds differ.

    >>> worst_of(np.array([1.0, 1.0])), worst_of(np.array([1.0, 0.9995]))
    ('100.0%', 'at least 99.95%')
    """
    if np.ptp(values) == 0:
        return f"{values.min():.1%}"
    return f"at least {values.min():.2%}"


def of_clipping(own: dict[str, np.ndarray]) -> dict:
    """Return the gain of training without clipping, over all settings that were trained both ways.

    A seed starts equally in both ways, so they are compared seed by seed.
    """
    unclipped = {
        name: ("scalar-unclipped" if name == "default" else f"{name}-unclipped") for name in own
    }
    pairs = {name: other for name, other in unclipped.items() if other in own}
    gains = {name: paired(own[other], own[name]) for name, other in pairs.items()}
    lowest, highest = (f(gain.mean for gain in gains.values()) for f in (min, max))
    clear = any(gain.is_clear for gain in gains.values())
    return {
        "unclipped_higher": not clear and lowest > 0,
        "unclipped_unclear": not clear and lowest <= 0,
        "unclipped_otherwise": clear,
        "unclipped_least": f"{100 * lowest:.1f}",
        "unclipped_most": f"{100 * highest:.1f}",
        "unclipped_settings": in_words(len(gains)),
        "unclipped_each": ", ".join(f"{gain.points()} ({name})" for name, gain in gains.items()),
    }


def of_memory(found: dict | None) -> dict:
    """Return the values of networks trained at one length and evaluated at others."""
    if found is None:
        return dict.fromkeys(OF_MEMORY)
    cells = {cell["setting"]: cell for cell in found["cells"]}
    longest = max(map(int, cells["latches"]["accuracy"]))
    far = {name: cell["accuracy"][str(longest)]["by_seed"] for name, cell in cells.items()}
    options = {
        name: rnn.Config(**palindrome_sweep.SETTINGS[name])
        for name in ("latches", "onehot", "latches-scalar")
    }
    return {
        "memory": figures.memory_panels(panels_of(cells)),
        "memory_n": found["n"],
        "memory_evaluated": parsed(palindrome_sweep.Config, found).eval_size,
        "memory_seeds": in_words(found["n"]),
        "memory_T": found["cells"][0]["T"],
        "memory_steps": found["cells"][0]["steps"],
        "memory_longest": longest,
        "latches_worst": min(far["latches"]),
        "latches_gain": paired(far["latches"], far["onehot"]).points(),
        "latches_schedule": options["latches"].schedule,
        "latches_norm": options["latches"].max_norm,
        "onehot_schedule": options["onehot"].schedule,
        "onehot_norm": options["onehot"].max_norm,
        "frozen_loss": paired(far["latches-frozen"], far["latches"]).points(),
        **of_gains(far),
        "scalar": spread(far["latches-scalar"], digits=1),
        "scalar_scale": options["latches-scalar"].input_scale,
        "scalar_failed": in_words(sum(value < FAILED for value in far["latches-scalar"])),
        "rotation": spread(far["latches-orthogonal"], digits=1),
        "rotation_own": spread(figures.at_own_length(cells["latches-orthogonal"]), digits=1),
        **of_onehot(cells["onehot"]),
    }


def panels_of(cells: dict[str, dict]) -> dict[str, dict[str, dict]]:
    """Return the cells of each panel by their label; settings without a label are left out."""
    shown = {
        title: {label: cells[name] for name, label in own.items() if name in cells}
        for title, own in PANELS.items()
    }
    return {title: own for title, own in shown.items() if own}


def of_long(found: dict | None) -> dict:
    """Return the accuracy of latches that were trained at a great length."""
    if found is None:
        return {"long_T": None}
    (cell,) = found["cells"]
    values = figures.at_own_length(cell)
    return {
        "long_T": cell["T"],
        "long_steps": cell["steps"],
        "long_n": found["n"],
        "long_lowest": values.min(),
        "long_highest": values.max(),
        "long_learned": in_words(int((values > LEARNED).sum())),
        "learned": LEARNED,
    }


def of_gains(far: dict[str, Sequence[float]]) -> dict:
    """Return how the factor of the identity affects accuracy far beyond the length of training.

    `unstable` is True if some seeds fail with factor 1, and all seeds learn with each larger one.
    """
    gains = {
        rnn.Config(**palindrome_sweep.SETTINGS[name]).gain: far[name]
        for name in ("latches-gain1.5", "latches", "latches-gain3")
    }
    failures = sorted(value for value in far["latches-gain1"] if value < FAILED)
    worst = min(map(min, gains.values()))
    unstable = bool(failures) and worst >= LEARNED
    return {
        "unstable": unstable,
        "stable": not unstable,
        "gain1": spread(far["latches-gain1"], digits=1),
        "gain1_failed": in_words(len(failures)),
        "gain1_failures": listed(f"{value:.1%}" for value in failures) if failures else None,
        "gains": listed(f"{gain:g}" for gain in sorted(gains)),
        "gains_worst": worst,
    }


def of_onehot(cell: dict) -> dict:
    """Return how many seeds of the default initialization with one-hot digits end far below chance.

    `below_chance` is their number at the greatest length, None if there are none.
    """
    found = {int(T): known["by_seed"] for T, known in sorted_by_length(cell)}
    own, far = found.pop(cell["T"]), found[max(found)]
    below = [
        (there, here) for there, here in zip(far, own, strict=True) if there < figures.CHANCE / 2
    ]
    if not below:
        return {"below_chance": None}
    there, here = zip(*below, strict=True)
    return {
        "below_chance": in_words(len(below)),
        "below_highest": f"{max(there):.1%}",
        "below_own": " to ".join(dict.fromkeys(f"{f(here):.1%}" for f in (min, max))),
        "onehot_highest": f"{max(map(max, found.values())):.1%}",
    }


def sorted_by_length(cell: dict) -> list[tuple[str, dict]]:
    """Return the accuracies of a cell with their lengths, the shortest first."""
    return sorted(cell["accuracy"].items(), key=lambda item: int(item[0]))
