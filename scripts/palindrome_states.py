"""Why the RNN forgets, in numbers: gradients over time, hidden states, and latches.

    python scripts/palindrome_states.py --results results/rnn_states.json

The script trains several seeds of the default network at several lengths, and of the latches at T =
20. It analyzes each network before and after training: the norm of the gradient at h(t), the
spectral radius of W_hh, and how accurately the first digit can be predicted from h(t) alone as the
network continues to read. T is the length of a palindrome.
"""

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

import numpy as np

from purenets import Params, fit, init_state, random, runs, tree
from purenets.core.report.tables import Table, table_of, to_text
from purenets.core.runs.command import command
from purenets.core.runs.options import (
    Options,
    file_path,
    not_negative,
    option,
    positive,
    seed_count,
    thread_count,
)
from scripts import palindrome_sweep
from scripts import train as rnn
from scripts.shared.experiments import Part, run_parts
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.schemas import STATES
from scripts.shared.sweeps import MEAN_SD, spread

NETS = {"default": (5, 10, 20, 30), "latches": (20,)}  # settings of the sweep, and lengths T
READ = 39  # digits that each network reads, whatever length it was trained at
SHOWN = (1, 4, 10, 19)  # times at which hidden states are drawn
POINTS = 150  # palindromes that are drawn
TIMES = ("before", "after")  # of the training
RIDGE = 1e-3  # times the mean variance, added so that saturated units do not dominate


def enough(value: int) -> str | None:
    """Check a number of palindromes: on average each digit has two to fit and two to test."""
    return None if 40 <= value <= 10_000 else "a number from 40 to 10,000"


@dataclass(frozen=True)
class Config(Options):
    """Analyze the RNN before and after its training."""

    seeds: int = option(5, "seeds of each network", seed_count)
    first_seed: int = option(0, "the first of them", not_negative)
    steps: int = option(3000, "steps to train for", positive)
    examples: int = option(400, "palindromes to look at, half of them to test", enough)
    compile: bool = option(True, "compile the whole step")
    threads: int = option(1, "CPU threads", thread_count)
    results: str = option(None, "JSON file for what was found; as Markdown beside it", file_path)
    resume: bool = option(False, "keep the cells that --results has already")


class Trained(NamedTuple):
    """The params of each seed before and after training, and its accuracy at the trained length."""

    before: list[Params]
    after: list[Params]
    accuracy: list[float]


def main(config: Config) -> list[dict]:
    """Train and analyze every network; return a cell for each."""
    parts = [
        Part({"setting": setting, "T": T}, functools.partial(one_cell, config, setting, T))
        for setting, lengths in NETS.items()
        for T in lengths
    ]
    cells = run_parts(config, "cells", STATES, parts, table)
    print(to_text(table(cells)))
    return cells


def one_cell(config: Config, setting: str, T: int) -> list[dict]:
    """Return a list of one cell."""
    return [cell(config, setting, T)]


def cell(config: Config, setting: str, T: int) -> dict:
    """Train the seeds of a network; return the results of their analysis."""
    member = rnn.Config(
        input_length=T - 1,
        train_steps=config.steps,
        recurrence="fused",
        compile=config.compile,
        threads=config.threads,
        **palindrome_sweep.SETTINGS[setting],
    )
    nets = trained(config, member)
    found = {"setting": setting, "T": T, "steps": config.steps, "accuracy": nets.accuracy}
    for when in TIMES:
        params = [tree.cast(own, "float64") for own in getattr(nets, when)]
        found[when] = {
            "gradients": [gradients(own, member, config.examples) for own in params],
            "radius": [spectral_radius(own) for own in params],
            "readable": [readable(own, member, config.examples) for own in params],
        }
    return found | {"plane": plane(nets.after[0], member)} | runs.origin()


def trained(config: Config, member: rnn.Config) -> Trained:
    """Train all seeds as one ensemble; return their params and accuracies."""
    import torch

    from purenets.torch_nets import ensemble_metrics, metrics_fn, stack_states, unstack_states

    rnn.set_up_torch(member)
    torch.compiler.reset()
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    keys = [rnn.keys(seed) for seed in seeds]
    model, optimizer = rnn.make_model(member), rnn.make_optimizer(member)
    first = stack_states([init_state(model, optimizer, key.state) for key in keys])
    T, one_hot = member.input_length + 1, member.input_dim != 1
    state, _ = fit(
        palindrome_sweep.step_of(member, model, optimizer),
        first,
        palindrome_sweep.ensemble_batches(member, [key.training for key in keys]),
        steps=config.steps,
        every=config.steps,
        label=f"{config.seeds} seeds, T = {T}",
    )
    metrics = ensemble_metrics(metrics_fn(model))
    reached = rnn.evaluate_at(metrics, state, keys[0].evaluation, T, 10_000, one_hot)
    before, after = ([own.params for own in unstack_states(s)] for s in (first, state))
    return Trained(before, after, reached["test_accuracy"].tolist())


def examples(member: rnn.Config, T: int, n: int):
    """Return `n` palindromes of length T in float64, drawn with a key of their own."""
    import torch

    from purenets.core.data.palindromes import palindromes

    x, y = palindromes(random.fold_in(random.key(77), T), n, T, member.input_dim != 1)
    return torch.from_numpy(x).double(), torch.from_numpy(y)


def gradients(params: Params, member: rnn.Config, n: int) -> list[float]:
    """Return the mean norm of dL/dh(t) over palindromes of the length of training, for each t."""
    from purenets.torch_nets.analysis.rnn_states import hidden_state_grads

    found = hidden_state_grads(params, *examples(member, member.input_length + 1, n))
    return found.norm(dim=2).mean(0).tolist()


def spectral_radius(params: Params) -> float:
    """Return the largest absolute eigenvalue of W_hh."""
    import torch

    return float(torch.linalg.eigvals(params["W_hh"]).abs().max())


def readable(params: Params, member: rnn.Config, n: int) -> list[float]:
    """Return how often the first digit is correctly predicted from h(t) alone, for each t.

    A linear discriminant analysis of the states makes the prediction. It is fitted on half of `n`
    palindromes of length READ + 1 and tested on the other half. It measures what the state holds,
    independent of the network's own output layer.
    """
    from purenets.torch_nets.analysis.rnn_states import states

    x, y = examples(member, READ + 1, n)
    found, digits = states(params, x).numpy(), y.numpy()
    return [discriminated(found[:, t], digits) for t in range(found.shape[1])]


def discriminated(h: np.ndarray, digits: np.ndarray) -> float:
    """Return the accuracy on the second half of a linear discriminant fitted on the first half."""
    half = len(h) // 2
    (fit_h, test_h), (fit_y, test_y) = (np.split(part, [half]) for part in (h, digits))
    known = np.unique(fit_y)
    means = np.stack([fit_h[fit_y == digit].mean(axis=0) for digit in known])
    inner = fit_h - means[np.searchsorted(known, fit_y)]
    covariance = inner.T @ inner / half
    ridge = RIDGE * max(np.trace(covariance) / len(covariance), 1e-12)
    weights = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), means.T)
    scores = test_h @ weights - 0.5 * np.einsum("ch,hc->c", means, weights)
    return float((known[scores.argmax(axis=1)] == test_y).mean())


def plane(params: Params, member: rnn.Config) -> dict:
    """Return hidden states in the plane of their first two principal axes, at the times SHOWN."""
    from purenets.torch_nets.analysis.rnn_states import principal_plane, states

    x, y = examples(member, READ + 1, POINTS)
    found = states(tree.cast(params, "float64"), x)[:, [t - 1 for t in SHOWN]]
    mean, axes = principal_plane(found.flatten(0, 1))
    points = ((found - mean) @ axes.T).numpy().round(3)
    return {"times": list(SHOWN), "digits": y.tolist(), "points": points.tolist()}


def table(cells: list[dict]) -> Table:
    """Return two rows for each network, before and after training.

    They have the ratio of gradients, the spectral radius, and how well h(T-1) predicts the digit.
    """
    header = (
        *(
            "setting",
            "T",
            "training",
            "gradient at h(1) / at h(T-1), geometric mean",
            "spectral radius, mean",
        ),
        *(f"first digit read from h(T-1), % ({MEAN_SD})", f"accuracy, % ({MEAN_SD})", "n", *ORIGIN),
    )
    return table_of(header, [row(found, when) for found in cells for when in TIMES])


def row(found: dict, when: str) -> tuple:
    """Return the table row of a network before or after its training."""
    seen, last = found[when], found["T"] - 2
    told = [of_seed[last] for of_seed in seen["readable"]]
    accuracy = spread(found["accuracy"], digits=1) if when == "after" else ""
    numbers = (f"{geometric_mean(reach(seen)):.1e}", f"{np.mean(seen['radius']):.2f}")
    names = (found["setting"], found["T"], when)
    return (*names, *numbers, spread(told, digits=1), accuracy, len(told), *origin_cells([found]))


def reach(seen: dict) -> np.ndarray:
    """Return the gradient at h(1) relative to that at the last step, for each seed."""
    return np.array([g[0] / g[-1] if g[-1] else 0.0 for g in seen["gradients"]])


def geometric_mean(values: np.ndarray) -> float:
    """Return the geometric mean, which no single large value dominates."""
    with np.errstate(divide="ignore"):  # the logarithm of zero, which makes the mean zero
        return float(np.exp(np.log(values).mean()))


if __name__ == "__main__":
    command(Config, main)
