"""Does the RNN memorize palindromes or learn the rule? Test it on held-out first halves.

    python scripts/palindrome_holdout.py --results results/rnn_holdout.json

The first half of a palindrome determines it. A fifth of all first halves is held out; the network
is trained repeatedly on a given number of the others. If it memorizes palindromes, it is right on
these and at chance on the held-out ones. If it has learned to remember the first digit, it is right
on both. Each seed has its own split, initialization and batches; the seeds are trained as one
vmapped ensemble. T is the length of a palindrome.
"""

import functools
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

import numpy as np

from purenets import Batch, UserError, fit, init_state, random, runs
from purenets.core.report.tables import Table, table_of, to_text
from purenets.core.runs.command import command
from purenets.core.runs.options import (
    Options,
    file_path,
    integers_from,
    not_negative,
    option,
    positive,
    seed_count,
    thread_count,
    up_to,
)
from scripts import palindrome_sweep
from scripts import train as rnn
from scripts.shared.comparison import MEAN_SE, Difference, paired
from scripts.shared.experiments import Part, run_parts
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.schemas import HOLDOUT
from scripts.shared.sweeps import MEAN_SD, spread

HELD_OUT = 0.2  # of all first halves


def listable(values: tuple) -> str | None:
    """Check lengths T, which must be from 2 to 12 so that all palindromes can be listed."""
    good = values and not rnn.lengths(values) and max(values) <= 12
    return None if good else "lengths T from 2 to 12 with commas between them, as 6,10"


@dataclass(frozen=True)
class Config(Options):
    """Train on some first halves of palindromes, test on others."""

    lengths: tuple[int, ...] = option((6, 10), "lengths T, with commas", listable)
    halves: tuple[int, ...] = option(
        (30, 100, 300, 800, 3000, 10000, 80000),
        "first halves to train on, with commas; numbers larger than a length allows are left out",
        integers_from(1, "positive integers with commas between them, as 30,100"),
    )
    seeds: int = option(5, "seeds of each cell", seed_count)
    first_seed: int = option(0, "the first of them", not_negative)
    steps: int = option(3000, "steps to train for", positive)
    batch_size: int = option(128, "palindromes in a step", up_to(100_000))
    eval_freq: int = option(500, "steps between evaluations", positive)
    eval_size: int = option(2000, "palindromes of each kind to evaluate at most", positive)
    compile: bool = option(True, "compile the whole step")
    threads: int = option(1, "CPU threads", thread_count)
    results: str = option(None, "JSON file for what was found; as Markdown beside it", file_path)
    resume: bool = option(False, "keep the cells that --results has already")


class Halves(NamedTuple):
    """The first halves of one seed, as numbers: those to train on, and those held out."""

    train: np.ndarray
    held_out: np.ndarray


def main(config: Config) -> list[dict]:
    """Train with every length and number of first halves; return a cell for each."""
    parts = [
        Part({"T": T, "halves": n}, functools.partial(one_cell, config, T, n))
        for T, n in grid(config)
    ]
    return run_parts(config, "cells", HOLDOUT, parts, table)


def one_cell(config: Config, T: int, n: int) -> list[dict]:
    """Train and print a cell; return a list of it."""
    cells = [cell(config, T, n)]
    print(to_text(table(cells)), flush=True)
    return cells


def grid(config: Config) -> list[tuple[int, int]]:
    """Return all pairs of a length and a number of first halves that this length has."""
    pairs = dict.fromkeys(itertools.product(config.lengths, config.halves))
    found = [(T, n) for T, n in pairs if n <= most_halves(T)]
    if not found:
        most, given = max(map(most_halves, config.lengths)), ",".join(map(str, config.halves))
        raise UserError(
            f"--halves {given}: at most {most} first halves are left for training; needs a number "
            "up to that"
        )
    return found


def most_halves(T: int) -> int:
    """Return the number of first halves that are left for training."""
    from purenets.core.data.palindromes import count

    return count(T) - round(HELD_OUT * count(T))


def split_halves(seed: int, T: int, n: int) -> Halves:
    """Return a seed's halves: `n` to train on, and the held-out ones, equal for every `n`."""
    from purenets.core.data.palindromes import count

    order = np.asarray(random.permutation(random.fold_in(random.key(seed), T), count(T)))
    held_out = count(T) - most_halves(T)
    return Halves(order[held_out : held_out + n], order[:held_out])


def palindromes_of(halves: np.ndarray, T: int) -> Batch:
    """Return the palindromes with these first halves: x (n, T-1, 1) and y (n,)."""
    from purenets.core.data.palindromes import (
        DIGITS,
        free_digits,
        inputs_and_targets,
        mirror_digits,
    )

    places = DIGITS ** np.arange(free_digits(T))[::-1]
    return inputs_and_targets(mirror_digits(halves[:, None] // places % DIGITS, T), False)


def stacked(batches: list[Batch]) -> Batch:
    """Stack the batches of all members of an ensemble into tensors, (members, batch, ...)."""
    import torch

    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*batches, strict=True))


def cell(config: Config, T: int, n: int) -> dict:
    """Train all seeds on `n` first halves at length T; return their accuracies on both kinds."""
    import torch

    from purenets.torch_nets import ensemble_metrics, metrics_fn, stack_states

    member = rnn.Config(
        input_length=T - 1,
        batch_size=config.batch_size,
        train_steps=config.steps,
        recurrence="fused",
        compile=config.compile,
        threads=config.threads,
    )
    rnn.set_up_torch(member)
    torch.compiler.reset()
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    split = [split_halves(seed, T, n) for seed in seeds]
    keys = [rnn.keys(seed) for seed in seeds]
    model, optimizer = rnn.make_model(member), rnn.make_optimizer(member)
    state = stack_states([init_state(model, optimizer, key.state) for key in keys])
    metrics = ensemble_metrics(metrics_fn(model), same_batch=False)
    parts = {
        name: stacked([palindromes_of(getattr(own, name)[: config.eval_size], T) for own in split])
        for name in Halves._fields
    }

    def evaluate(state) -> dict[str, float]:
        row = {}
        for name, batch in parts.items():
            values = metrics(state.params, state.buffers, batch)["accuracy"]
            row |= {f"{name}_{seed}": float(v) for seed, v in zip(seeds, values, strict=True)}
        return row

    _, history = fit(
        palindrome_sweep.step_of(member, model, optimizer),
        state,
        training_batches([key.training for key in keys], split, config.batch_size, T),
        steps=config.steps,
        every=config.eval_freq,
        evaluate=evaluate,
        label=f"T = {T}, {n} halves",
    )
    last = {name: [history[-1][f"{name}_{seed}"] for seed in seeds] for name in Halves._fields}
    about = {"T": T, "halves": n, "steps": config.steps, "seeds": list(seeds)}
    return about | last | {"history": history} | runs.origin()


def training_batches(keys, split: list[Halves], size: int, T: int) -> Callable[[int], Batch]:
    """Return the function from a step to the palindromes of all members.

    Each member draws from its own training halves.
    """

    def batch_at(step: int) -> Batch:
        rows = [
            np.asarray(random.randint(random.fold_in(key, step), (size,), 0, len(own.train)))
            for key, own in zip(keys, split, strict=True)
        ]
        drawn = zip(split, rows, strict=True)
        return stacked([palindromes_of(own.train[mine], T) for own, mine in drawn])

    return batch_at


def gap(cell: dict) -> Difference:
    """Return the accuracy on training halves minus that on held-out halves, paired by seed."""
    return paired(cell["train"], cell["held_out"])


def table(cells: list[dict]) -> Table:
    """Return a row for each length and number of halves."""
    header = (
        *("T", "first halves trained on", f"trained on, % ({MEAN_SD})"),
        *(f"held out, % ({MEAN_SD})", f"gap, points ({MEAN_SE})", "n", *ORIGIN),
    )
    rows = []
    for found in cells:
        both = (spread(found[name], digits=1) for name in Halves._fields)
        what = (found["T"], f"{found['halves']:,}", *both, gap(found).points())
        rows.append((*what, len(found["train"]), *origin_cells([found])))
    return table_of(header, rows)


if __name__ == "__main__":
    command(Config, main)
