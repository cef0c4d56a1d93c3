"""What a network without convolutions cannot know: which pixels are neighbors.

    python scripts/shuffled_pixels.py --seeds 10 --results results/part1_shuffled.json

An MLP and a narrow reduced VGG learn scikit-learn's digits, once as they are and once with shuffled
pixels. The order of the pixels is the same for all images, in training and test. Each seed has its
own split, initialization, batches and order; both versions of a seed share all but the order.
"""

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

import numpy as np

from purenets import (
    Batch,
    Model,
    Optimizer,
    TrainState,
    data,
    evaluate,
    fit,
    init_state,
    make_step,
    optim,
    random,
    runs,
)
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
    up_to,
)
from purenets.schedules import SCHEDULES
from scripts.shared.comparison import MEAN_SE, Difference, paired
from scripts.shared.experiments import Part, run_parts
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.schemas import SHUFFLED
from scripts.shared.sweeps import MEAN_SD, spread

SIDE = 8  # pixels of a digit in each direction
NETS = ("MLP", "CNN")
ORDERS = ("in order", "shuffled")


@dataclass(frozen=True)
class Config(Options):
    """Train an MLP and a CNN on digits, with the pixels in order and shuffled."""

    seeds: int = option(10, "seeds of each network and order", seed_count)
    first_seed: int = option(0, "the first of them", not_negative)
    hidden: int = option(100, "units of the MLP's hidden layer", up_to(10_000))
    width: float = option(0.25, "factor of the CNN's channels", up_to(4.0))
    learning_rate: float = option(1e-2, "of Adam, at the top of one cycle", positive)
    steps: int = option(300, "steps to train for", positive)
    batch_size: int = option(64, "images in a step", up_to(1000))
    eval_freq: int = option(20, "steps between two points of the curves", positive)
    threads: int = option(1, "CPU threads", thread_count)
    results: str = option(None, "JSON file for what was found; as Markdown beside it", file_path)
    resume: bool = option(False, "keep the rows that --results has already")


def main(config: Config) -> list[dict]:
    """Train every network with every order and seed; return their rows."""
    import torch  # imported late, here and below, so that --help is fast

    torch.set_num_threads(config.threads)
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    parts = [Part({"seed": seed}, functools.partial(of_seed, config, seed)) for seed in seeds]
    rows = run_parts(config, "rows", SHUFFLED, parts, table)
    print(to_text(table(rows)))
    return rows


def of_seed(config: Config, seed: int) -> list[dict]:
    """Train every network with every order; return their rows."""
    rows = [trained(config, net, order, seed) for net in NETS for order in ORDERS]
    print(f"seed {seed}: " + ", ".join(f"{row['test_accuracy']:.4f}" for row in rows), flush=True)
    return rows


def trained(config: Config, net: str, order: str, seed: int) -> dict:
    """Train one network; return its row with the test accuracy, of the first seed with curves."""
    import torch

    from purenets.torch_nets import grad_fn, metrics_fn

    data_key, order_key, init_key, batch_key = random.split(random.key(seed), 4)
    train, test = images(net, order, data_key, order_key)
    model, optimizer = make_model(config, net), make_optimizer(config)
    metrics, is_first = metrics_fn(model), seed == config.first_seed

    def losses_and_accuracies(state: TrainState) -> dict:
        return {
            f"{part}_{name}": float(value)
            for part, images_of_part in (("train", train), ("test", test))
            for name, value in evaluate(metrics, state, images_of_part).items()
        }

    _, history = fit(
        make_step(grad_fn(model), optimizer),
        init_state(model, optimizer, torch.as_tensor(init_key)),
        data.batches(train, config.batch_size, batch_key),
        steps=config.steps,
        every=config.eval_freq if is_first else config.steps,
        evaluate=losses_and_accuracies,
    )
    found = {"net": net, "pixels": order, "seed": seed}
    found["test_accuracy"] = history[-1]["test_accuracy"]
    return found | ({"history": history} if is_first else {}) | runs.origin()


def make_optimizer(config: Config) -> Optimizer:
    """Return Adam with a one-cycle schedule."""
    return optim.adam(lr=SCHEDULES["one_cycle"](config.learning_rate, config.steps))


def images(net: str, order: str, data_key, order_key) -> tuple[Batch, Batch]:
    """Return training and test set as tensors: rows of pixels for the MLP, images for the CNN.

    If shuffled, the pixels of all images of both sets have the same order.
    """
    import torch

    task = data.load("digits", data_key)
    places = np.arange(SIDE**2)
    if order == "shuffled":
        places = np.asarray(random.permutation(order_key, SIDE**2))
    shape = (-1, 1, SIDE, SIDE) if net == "CNN" else (-1, SIDE**2)
    return tuple(
        (torch.as_tensor(np.ascontiguousarray(x[:, places]).reshape(shape)), torch.as_tensor(y))
        for x, y in (task.train, task.test)
    )


def make_model(config: Config, net: str) -> Model:
    """Return the MLP or the CNN for digits."""
    from purenets.torch_nets import CNN, MLP

    if net == "MLP":
        return MLP(SIDE**2, [config.hidden], 10)
    return CNN(1, 10, width=config.width)


def accuracies(rows: list[dict], net: str, pixels: str) -> list[float]:
    """Return the test accuracies of one network and order, one for each seed."""
    return [r["test_accuracy"] for r in rows if (r["net"], r["pixels"]) == (net, pixels)]


def effect(rows: list[dict], net: str) -> Difference:
    """Return the gain in test accuracy of a network from shuffled pixels, paired by seed."""
    return paired(accuracies(rows, net, "shuffled"), accuracies(rows, net, "in order"))


def table(rows: list[dict]) -> Table:
    """Return a row for each network: both accuracies and their difference in points."""
    columns = [f"{pixels}, % ({MEAN_SD})" for pixels in ORDERS]
    header = ("net", *columns, f"difference, points ({MEAN_SE})", "n", *ORIGIN)
    return table_of(header, [cells(rows, net) for net in NETS])


def cells(rows: list[dict], net: str) -> tuple:
    """Return the row of a network."""
    difference, mine = effect(rows, net), [row for row in rows if row["net"] == net]
    both = (spread(accuracies(rows, net, pixels)) for pixels in ORDERS)
    return (net, *both, difference.points(), difference.n[0], *origin_cells(mine))


if __name__ == "__main__":
    command(Config, main)
