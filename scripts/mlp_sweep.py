"""Train an MLP at many rates with many seeds in one vmapped run, and draw a map of accuracies.

python scripts/mlp_sweep.py --dataset circles --optimizer adam --out runs/sweep
"""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

import numpy as np
from einops import rearrange
from tqdm import tqdm

from purenets import UserError, data, init_state, make_step, optim, random, runs
from purenets.core.arrays import to_host
from purenets.core.base import TrainState
from purenets.core.memory import expect_room_for
from purenets.core.runs.command import command
from purenets.core.runs.json_files import read_json, write_json
from purenets.core.runs.options import (
    Options,
    file_path,
    not_negative,
    one_of,
    option,
    positive,
    up_to,
    widths,
)
from purenets.data import DATASETS
from purenets.optim import OPTIMIZERS
from scripts.shared.mlp import expect_batch_size
from scripts.shared.schemas import all_of
from scripts.shared.sweeps import MEAN_SD, spread

SWEEP, ACCURACY = "sweep.json", "validation_accuracy"


@dataclass(frozen=True)
class Config(Options):
    """Sweep learning rates and seeds of an MLP in one run."""

    dnn_hidden_units: tuple[int, ...] = option(
        (20,), "units of each hidden layer, with commas between", widths
    )
    dataset: str = option("moons", f"one of {', '.join(DATASETS)}", one_of(DATASETS))
    optimizer: str = option("sgd", f"one of {', '.join(OPTIMIZERS)}", one_of(OPTIMIZERS))
    lowest: float = option(1e-3, "the lowest rate", positive)
    highest: float = option(10.0, "the highest rate", positive)
    rates: int = option(9, "rates, equally far apart on a logarithmic scale", up_to(1000))
    seeds: int = option(5, "seeds of each rate: params, key and order of batches", up_to(1000))
    steps: int = option(500, "steps of every member", positive)
    batch_size: int = option(32, "examples in a step, 0 full-batch", not_negative)
    compile: bool = option(True, "compile the step of all members")
    out: str = option(None, "folder for config.json, sweep.json and sweep.png", file_path)
    resume: bool = option(False, "take the numbers that --out has, and draw the map again")

    def __post_init__(self):
        super().__post_init__()
        if self.rates > 1 and self.lowest >= self.highest:
            raise UserError(f"--lowest {self.lowest}: needs less than --highest {self.highest}")

    def unused(self) -> Iterator[tuple[str, str]]:
        if self.rates == 1:
            yield "highest", "--rates 1 takes --lowest alone; leave it out"


def members(config: Config) -> list[tuple[float, int]]:
    """Return (rate, seed) of each ensemble member; the seeds of a rate are adjacent."""
    rates = np.geomspace(config.lowest, config.highest, config.rates)
    return [(float(rate), seed) for rate in rates for seed in range(config.seeds)]


def train(config: Config) -> np.ndarray:
    """Train all members; return their validation accuracies, (rates, seeds).

    A fifth of the training set is held out for validation. A member that diverged has NaN.
    """
    import torch  # imported late, so that --help is fast

    from purenets.torch_nets import (
        MLP,
        ensemble,
        ensemble_metrics,
        grad_fn,
        jit,
        metrics_fn,
        stack_states,
    )

    torch.set_num_threads(1)
    task = data.load(config.dataset, random.key(0))
    x, y = map(torch.as_tensor, task.train)
    held_out = len(y) // 5
    expect_batch_size(config.batch_size, len(y) - held_out)
    train_set, validation_set = (x[held_out:], y[held_out:]), (x[:held_out], y[:held_out])
    model = MLP(task.n_features, config.dnn_hidden_units, task.n_classes)
    members_ = config.rates * config.seeds
    expect_room_for(model, "take fewer --rates or --seeds, or a smaller net", members_)
    optimizer = optim.inject_hyperparams(OPTIMIZERS[config.optimizer], lr=1.0)

    def begin(rate: float, seed: int) -> TrainState:
        state = init_state(model, optimizer, torch.as_tensor(random.key(seed)))
        return state._replace(opt_state=optim.set_hyperparams(state.opt_state, lr=rate))

    state = stack_states([begin(*member) for member in members(config)])
    step = ensemble(make_step(grad_fn(model), optimizer))
    step = jit(step) if config.compile else step
    orders = [
        data.batches(train_set, config.batch_size, random.key(1000 + seed))
        for seed in range(config.seeds)
    ]
    for i in tqdm(range(config.steps), desc="sweep", unit="step", disable=None):
        each = [batches(i) for batches in orders] * config.rates
        state, _ = step(state, tuple(map(torch.stack, zip(*each, strict=True))))
    state = optim.with_averaged_params(state)
    found = ensemble_metrics(metrics_fn(model))(state.params, state.buffers, validation_set)
    finite = [leaf.flatten(1).isfinite().all(1) for leaf in state.params.values()]
    accuracy = torch.where(torch.stack(finite).all(0), found["accuracy"], torch.nan)
    return rearrange(to_host(accuracy), "(rate seed) -> rate seed", seed=config.seeds)


def draw(config: Config, accuracy: np.ndarray):
    """Draw the map of validation accuracies: a row for each seed, a column for each rate."""
    from purenets.core.report import plots

    width = max(3.5, 1 + 0.75 * config.rates)
    figure, axes = plots.panels(1, 1, width, 1.6 + 0.4 * config.seeds)
    axis, rates = axes[0, 0], [f"{rate:.2g}" for rate, seed in members(config) if seed == 0]
    percent = 100 * accuracy
    image = axis.imshow(percent.T, vmin=0, vmax=100, cmap="cividis", aspect="auto")
    for (i, j), value in np.ndenumerate(percent):
        color = "white" if value <= 60 else "black"
        text = "nan" if np.isnan(value) else f"{value:.0f}"
        axis.text(i, j, text, ha="center", va="center", fontsize=8, color=color)
    axis.set(
        xticks=range(config.rates),
        yticks=range(config.seeds),
        xlabel="learning rate",
        ylabel="seed",
    )
    axis.set_xticklabels(rates)
    axis.set_title(f"{config.dataset}, {config.optimizer}, {config.steps} steps")
    axis.grid(False)
    figure.colorbar(image, ax=axis, label="validation accuracy, %")
    return figure


def main(config: Config) -> np.ndarray:
    with runs.open_run(config) as folder:
        accuracy = found_in(folder, config)
        rates = [rate for rate, seed in members(config) if seed == 0]
        if folder:
            save(folder, config, rates, accuracy)
    print(f"rate      validation accuracy over {config.seeds} seeds ({MEAN_SD})")
    for rate, row in zip(rates, accuracy, strict=True):
        print(f"{rate:<8.2g}  {of_members(row)}")
    return accuracy


def of_members(row: np.ndarray) -> str:
    """Return mean and deviation of a rate's accuracies, and how many members diverged."""
    good = row[~np.isnan(row)].tolist()
    lost = f"{len(row) - len(good)} of {len(row)} diverged" if len(good) < len(row) else ""
    return ", ".join(filter(None, [spread(good, unit="%") if good else "", lost]))


def found_in(folder: Path | None, config: Config) -> np.ndarray:
    """Return the accuracies, (rates, seeds).

    With --resume they are read from the folder if it has them; otherwise the members are trained.
    """
    if config.resume and (folder / SWEEP).exists():
        shape = all_of([[(float, None)]], of_shape(config.rates, config.seeds))
        return np.array(read_json(folder / SWEEP, {ACCURACY: shape})[ACCURACY], float)
    return train(config)


def of_shape(rates: int, seeds: int) -> Callable[[list], str | None]:
    """Return a check that accuracies read back have the shape (rates, seeds)."""

    def check(value: list) -> str | None:
        good = len(value) == rates and all(len(row) == seeds for row in value)
        return None if good else f"needs {rates} rates with {seeds} seeds each"

    return check


def save(folder: Path, config: Config, rates: list[float], accuracy: np.ndarray) -> None:
    """Write the accuracies as JSON and their map as PNG."""
    from purenets.core.report import plots

    rows = [[None if math.isnan(value) else value for value in row] for row in accuracy.tolist()]
    found = {"rates": rates, ACCURACY: rows}
    write_json(folder / SWEEP, found)
    plots.save(draw(config, accuracy), (folder / SWEEP).with_suffix(".png"))


if __name__ == "__main__":
    command(Config, main)
