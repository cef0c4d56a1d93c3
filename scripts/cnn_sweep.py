"""Part II: the reduced VGG with several optimizers, rates and seeds, and what it reaches at its
best.

    python scripts/cnn_sweep.py --data_dir DIR --results results/part2_settings.json

Each setting and seed is a run of scripts/cnn_train.py in a folder of its own in --out; a run that
was stopped goes on, one that has ended is only read. Runs that --results has already are kept and
not trained again, so that settings and seeds can be added to it, also on another machine: each row
names its own.
"""

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets.core.report.tables import Table, table_of, to_text
from purenets.core.runs.command import command
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
from scripts import cnn_train
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.sweeps import MEAN_SD, folder_of, grouped, spread, sweep, trained

# Named changes of the options of scripts/cnn_train.py
SETTINGS = {
    "adam 1e-3": {"learning_rate": 1e-3},  # the assignment's: Adam in its defaults
    "adam 1e-4": {"learning_rate": 1e-4},
    "adam 1e-2": {"learning_rate": 1e-2},
    "nesterov 1e-2": {"optimizer": "nesterov", "learning_rate": 1e-2},
    "rmsprop 1e-3": {"optimizer": "rmsprop", "learning_rate": 1e-3},
    "best": {
        "optimizer": "nesterov",
        "learning_rate": 0.4,
        "schedule": "one_cycle",
        "weight_decay": 5e-4,
        "flip": "random",
        "crop": 4,
        "cutout": 8,
        "label_smoothing": 0.1,
        "views": "mirror",
        "batch_size": 512,
        "epochs": 40.0,
        "eval_freq": 200,
        "valid_fraction": 0.02,
    },
}


@dataclass(frozen=True)
class Config(Options):
    """Train the reduced VGG with several optimizers, rates and seeds."""

    settings: tuple[str, ...] = option(
        tuple(name for name in SETTINGS if name != "best"),
        "named settings, with commas",
        each(one_of(SETTINGS)),
    )
    seeds: int = option(3, "seeds of each setting", seed_count)
    first_seed: int = option(0, "the first of them", not_negative)
    data: str = option(
        "folder", "cifar10, folder or digits", choices=["cifar10", "folder", "digits"]
    )
    data_dir: str = option(
        "data/cifar10-jpeg75", "where cifar10 is kept, or the folder of images", file_path
    )
    max_steps: int = option(5000, "steps of the settings that do not count epochs", positive)
    width: float = option(1.0, "factor of the channels", positive)
    threads: int = option(0, "CPU threads; 0 for one a core", thread_count_or_0)
    out: str = option("runs/cnn_settings", "folder of the runs", file_path)
    results: str = option(None, "JSON file for what all runs found; what it has is kept", file_path)


def main(config: Config) -> list[dict]:
    """Every setting and seed; their rows, and those that `--results` had."""
    shared = {name: getattr(config, name) for name in ("data", "data_dir", "width", "threads")}

    def row_of(setting: str, seed: int) -> dict:
        own = SETTINGS[setting]
        length = {} if "epochs" in own else {"max_steps": config.max_steps}
        values = shared | length | own | folder_of(config.out, setting, seed)
        return trained(cnn_train, cnn_train.Config(**values))

    seeds = range(config.first_seed, config.first_seed + config.seeds)
    wanted = itertools.product(config.settings, seeds)
    rows = sweep(config.out, config.results, wanted, row_of, table)
    print(to_text(table(rows)))
    return rows


def table(rows: list[dict]) -> Table:
    """Return a row for each setting: accuracies in percent, mean ± standard deviation over the
    seeds.
    """
    parts = ("train", "validation", "test", "test with mirror image")
    accuracies = [f"{part}, % ({MEAN_SD})" for part in parts]
    header = ("setting", "steps", *accuracies, "n", *ORIGIN)
    return table_of(header, [cells(name, mine) for name, mine in grouped(rows).items()])


def cells(setting: str, rows: list[dict]) -> tuple:
    """Return a setting's row of the table."""
    last = [row["history"][-1] for row in rows]
    return (
        setting,
        f"{last[0]['step']:,}",
        spread([row["accuracy"] for row in last]),
        spread([row["valid_accuracy"] for row in last]),
        spread([row["test"]["accuracy"] for row in rows]),
        spread([row["test"].get("views_accuracy") for row in rows]),
        len(rows),
        *origin_cells(rows),
    )


if __name__ == "__main__":
    command(Config, main)
