"""Part III: measure accuracy over the length of palindromes, for several settings and seeds.

    python scripts/palindrome_sweep.py --lengths 5,6,8,10 --seeds 10 --results results/rnn.json

The seeds of a length are trained together as one vmapped ensemble: the member of seed i is what
`scripts/train.py --seed i` trains. Each setting and length is a cell with its own folder in --out.
With --resume an interrupted sweep continues, also within a cell, and ends with the same results.
Under torchrun the processes share the cells. T is the length of a palindrome.
"""

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

import numpy as np

from purenets import init_state, make_step, random, runs
from purenets.core.architectures import RNN_RECURRENCES
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.files import (
    exclusive_lock,
    folder_at,
    remove_unfinished,
)
from purenets.core.runs.json_files import read_json, write_json
from purenets.core.runs.options import (
    Options,
    each,
    file_path,
    not_negative,
    one_of,
    option,
    positive,
    seed_count,
    thread_count_or_0,
)
from scripts import train as rnn
from scripts.shared import result_files
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.schemas import CELL
from scripts.shared.sweeps import MEAN_SD, spread

# Named changes of the options of scripts/train.py
ONE_HOT, UNCLIPPED, FROZEN = {"input_dim": 10}, {"max_norm": 0.0}, {"freeze_recurrence": True}
ORTHOGONAL = {"init": "orthogonal"}
LATCHES = {**ONE_HOT, "init": "identity", "gain": 2.0, "schedule": "cosine", "max_norm": 1.0}
SETTINGS = {
    "default": {},  # scalar input, default initialization, clipped
    "scalar-unclipped": UNCLIPPED,
    "scalar-orthogonal": ORTHOGONAL,
    "scalar-orthogonal-unclipped": ORTHOGONAL | UNCLIPPED,
    "onehot": ONE_HOT,
    "onehot-unclipped": ONE_HOT | UNCLIPPED,
    "onehot-orthogonal": ONE_HOT | ORTHOGONAL,
    "onehot-orthogonal-unclipped": ONE_HOT | ORTHOGONAL | UNCLIPPED,
    "scalar-frozen": FROZEN,
    "onehot-frozen": ONE_HOT | FROZEN,
    "scalar-orthogonal-frozen": ORTHOGONAL | FROZEN,
    "onehot-orthogonal-frozen": ONE_HOT | ORTHOGONAL | FROZEN,
    "latches": LATCHES,
    "latches-gain1": LATCHES | {"gain": 1.0},
    "latches-gain1.5": LATCHES | {"gain": 1.5},
    "latches-gain3": LATCHES | {"gain": 3.0},
    "latches-frozen": LATCHES | FROZEN,
    "latches-scalar": LATCHES | {"input_dim": 1, "input_scale": 0.2},
    "latches-orthogonal": LATCHES | ORTHOGONAL,
    "small-input-orthogonal": ONE_HOT
    | ORTHOGONAL
    | {"input_scale": 0.01, "learning_rate": 3e-4, "schedule": "cosine", "max_norm": 1.0},
}


LENGTHS = (5, 6, 8, 10, 12, 15, 18, 20, 25, 30, 40)


def some_lengths(values: tuple) -> str | None:
    """Check lengths T; at least one is needed."""
    return rnn.lengths(values or ("none",))


@dataclass(frozen=True)
class Config(Options):
    """Train RNNs on palindromes of several lengths T, several seeds of each."""

    settings: tuple[str, ...] = option(
        ("default",), "named settings, with commas (see the source)", each(one_of(SETTINGS))
    )
    lengths: tuple[int, ...] = option(LENGTHS, "lengths T to train at, with commas", some_lengths)
    also: tuple[int, ...] = option((), "more lengths T, only to evaluate at", rnn.lengths)
    seeds: int = option(10, "seeds 0, 1, ... of each length", seed_count)
    first_seed: int = option(0, "the first of them", not_negative)
    steps: int = option(10000, "steps to train for", positive)
    batch_size: int = option(128, "palindromes in a step", positive)
    num_hidden: int = option(128, "units of the hidden layer", positive)
    learning_rate: float = option(None, "in place of the settings' own", positive)
    curriculum: tuple[int, ...] = option((), "lengths T to train at first", rnn.lengths)
    eval_freq: int = option(1000, "steps between evaluations", positive)
    eval_size: int = option(
        10000,
        "evaluate all palindromes if at most this many, else this many fresh ones",
        positive,
    )
    recurrence: str = option(
        "fused", "of a training step: as in scripts/train.py", one_of(RNN_RECURRENCES)
    )
    compile: bool = option(True, "compile the whole step; not with --curriculum")
    threads: int = option(
        0, "CPU threads, which share out the members; 0: one per core", thread_count_or_0
    )
    out: str = option("runs/palindrome_sweep", "folder of the cells", file_path)
    results: str = option(None, "JSON file for what all cells found", file_path)
    resume: bool = option(False, "go on with the sweep in --out")


def main(config: Config) -> dict:
    """Train or read all cells, shared among the processes of torchrun; return the results."""
    import torch  # imported late, here and below, so that --help is fast

    from purenets.torch_nets.distributed import barrier, processes

    about = runs.environment() | runs.machine()  # of the beginning
    with (
        processes(torch.device("cpu")) as group,
        runs.open_run(config, group.writes, group.size) as folder,
        result_files.exclusive(results_of(config, group)) as results,
    ):
        barrier(group)  # wait until the folder exists
        cells = list(dict.fromkeys(itertools.product(config.settings, config.lengths)))

        def row(i: int) -> dict:
            setting, T = cells[i]
            return cell(config, setting, T, folder / f"{setting}-T{T}", f"{i + 1}/{len(cells)}")

        for i in range(group.rank, len(cells), group.size):
            print(summary(row(i)), flush=True)
        barrier(group)
        rows = [row(i) for i in range(len(cells))]  # all cells exist now and are only read
        found = {"command": runs.command_line(config), "n": config.seeds, **about}
        found |= {"settings": {name: SETTINGS[name] for name in config.settings}, "cells": rows}
        if results:
            result_files.write(results, found, table(found))
    return found


def results_of(config: Config, group) -> Path | None:
    """Return the results file that this process writes; None if it writes none."""
    return Path(config.results) if config.results and group.writes else None


def table(found: dict) -> Table:
    """Return a row for each cell and each length at which it was evaluated.

    It has the accuracy over the seeds, mean ± standard deviation, and the worst seed.
    """
    accuracy = f"accuracy ({MEAN_SD})"
    header = (
        *("setting", "steps", "trained at T", "evaluated at T", accuracy, "worst seed", "n"),
        *ORIGIN,
    )
    rows = []
    for row in found["cells"]:
        for T, at in row["accuracy"].items():
            values = at["by_seed"]
            which = f"{T} (all palindromes)" if at["exhaustive"] else T
            trained = (row["setting"], row["steps"], row["T"], which)
            reached = (spread(values, digits=1, unit="%"), f"{min(values):.1%}", len(values))
            rows.append((*trained, *reached, *origin_cells([row])))
    return table_of(header, rows)


def cell(config: Config, setting: str, T: int, folder: Path, place: str) -> dict:
    """Return the results of a setting and length; train it only if its folder has none yet."""
    path, origin = folder / "cell.json", runs.origin_of(folder.parent)
    if path.exists():
        return origin | read_json(path, CELL)
    with exclusive_lock(folder_at(folder)):
        remove_unfinished(folder)
        runs.settle(folder)
        found = train_cell(config, rnn_config(config, setting, T), setting, folder, place) | origin
        write_json(path, found)
    return found


def rnn_config(config: Config, setting: str, T: int) -> rnn.Config:
    """Return the options that all members of a cell share; only the seed is left to set."""
    shared = (
        "batch_size",
        "num_hidden",
        "curriculum",
        "eval_freq",
        "eval_size",
        "recurrence",
        "compile",
        "threads",
    )
    own = SETTINGS[setting] | (
        {"learning_rate": config.learning_rate} if config.learning_rate else {}
    )
    options = {name: getattr(config, name) for name in shared} | own
    if not config.threads:
        import torch

        options["threads"] = torch.get_num_threads()
    return rnn.Config(input_length=T - 1, train_steps=config.steps, **options)


def train_cell(config: Config, member: rnn.Config, setting: str, folder: Path, place: str) -> dict:
    """Train all seeds of a cell as one ensemble and evaluate each; return the cell."""
    import torch

    from purenets.torch_nets import ensemble_metrics, metrics_fn, stack_states

    rnn.set_up_torch(member)
    rnn.expect_room_for_batches(member, config.seeds)
    # otherwise the functions that all cells share reach the recompilation limit
    torch.compiler.reset()
    T, one_hot = member.input_length + 1, member.input_dim != 1
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    model, optimizer = rnn.make_model(member), rnn.make_optimizer(member)
    state_keys, train_keys, evaluation_keys = zip(*map(rnn.keys, seeds), strict=True)
    state = stack_states([init_state(model, optimizer, key) for key in state_keys])
    metrics = ensemble_metrics(metrics_fn(model))

    def evaluate(state, T=T) -> dict:
        return rnn.evaluate_at(metrics, state, evaluation_keys[0], T, config.eval_size, one_hot)

    state, history = runs.fit_and_save(
        folder,
        step_of(member, model, optimizer),
        state,
        ensemble_batches(member, train_keys),
        steps=member.train_steps,
        every=member.eval_freq,
        evaluate=lambda state: by_seed(evaluate(state), seeds),
        label=f"{place} {setting}, T = {T}",
        hint="try a lower --learning_rate",
        steps_flag="--steps",
        resume_hint="saved; go on with the same options and --resume",
    )
    options = {n: value for n, value in member.to_dict().items() if n not in ("seed", "out")}
    about = {"setting": setting, "T": T, "steps": member.train_steps, "seeds": list(seeds)}
    return about | {
        "options": options,
        "accuracy": at_lengths(evaluate, state, [T, *config.also], config.eval_size),
        "history": history,
    }


def step_of(member: rnn.Config, model, optimizer):
    """Return the training step of all members, which reports each metric as their mean."""
    from purenets.torch_nets import ensemble, grad_fn, jit

    step = ensemble(make_step(grad_fn(model), optimizer))
    return averaged(jit(step) if member.compile and not member.curriculum else step)


def at_lengths(evaluate, state, lengths, size: int) -> dict:
    """Return each seed's accuracy and whether all palindromes were evaluated, by length."""
    from purenets.core.data.palindromes import is_exhaustive

    return {
        str(T): {
            "exhaustive": is_exhaustive(T, size),
            "by_seed": evaluate(state, T)["test_accuracy"].tolist(),
        }
        for T in lengths
    }


def ensemble_batches(member: rnn.Config, keys):
    """Return the function from a step to the palindromes of all members, (members, batch, ...).

    One vmapped call draws them.
    """
    import torch

    from purenets.core.data.palindromes import palindromes
    from purenets.torch_nets import jit

    length, stacked = rnn.length_at(member), torch.stack([torch.as_tensor(key) for key in keys])

    def draw(key, step, T):
        return palindromes(random.fold_in(key, step), member.batch_size, T, member.input_dim != 1)

    def draw_all(step, T):
        return torch.func.vmap(lambda key: draw(key, step, T))(stacked)

    compiled = jit(draw_all) if member.compile and not member.curriculum else draw_all
    return lambda step: compiled(torch.tensor(step), length(step))


def averaged(step):
    """Return the step with each metric averaged over the members, as `fit` reports it."""

    def mean_step(state, batch):
        state, metrics = step(state, batch)
        return state, {name: values.mean() for name, values in metrics.items()}

    return mean_step


def by_seed(metrics: dict, seeds) -> dict[str, float]:
    """Return the value of each metric and seed, named METRIC_SEED."""
    return {
        f"{name}_{seed}": float(value)
        for name, values in metrics.items()
        for seed, value in zip(seeds, values, strict=True)
    }


def summary(row: dict) -> str:
    parts = []
    for T, found in row["accuracy"].items():
        values = np.array(found["by_seed"])
        parts.append(
            f"T = {T}: {values.mean():.4f} (min {values.min():.4f}, max {values.max():.4f})"
        )
    return f"{row['setting']}, trained at T = {row['T']}: " + ", ".join(parts)


if __name__ == "__main__":
    command(Config, main)
