"""Part II: train the reduced VGG with several optimizers, rates and seeds, and at its best.

    python scripts/cnn_sweep.py --results results/part2_settings.json

Each setting and seed is a run of scripts/cnn_train.py in its own folder in --out. An interrupted
run continues, and a finished one is only read. Rows that are already in --results are kept and not
trained again, so settings and seeds can be added later, also on another machine: each row names its
own machine.
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
from scripts.shared.images import SOURCES
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.sweeps import (
    MEAN_SD,
    folder_of,
    grouped,
    place_in,
    spread,
    sweep,
)

# Named changes of the options of scripts/cnn_train.py. The assignment's training uses Adam at its
# default rate. Other settings change the optimizer or the rate; of two rates, the better one on
# validation images counts. All use --precision, except one that shows whether bfloat16 changes the
# accuracy. The settings of 40 epochs separate the effect of more epochs from the effect of
# augmentation and regularization.
EPOCHS_40 = {
    "optimizer": "nesterov",
    "learning_rate": 0.4,
    "schedule": "one_cycle",
    "batch_size": 512,
    "epochs": 40.0,
    "eval_freq": 0,
    "precision": "bfloat16",
}
VGG = {
    name: value
    for name, value in cnn_train.PRESETS["vgg"].to_dict().items()
    if value != cnn_train.Config().to_dict()[name]
}
IN_FLOAT32 = "adam 1e-3 in float32"
SETTINGS = {
    "adam 1e-3": {"learning_rate": 1e-3},  # the assignment's: Adam with its defaults
    IN_FLOAT32: {"learning_rate": 1e-3, "precision": "float32"},
    "adam 1e-4": {"learning_rate": 1e-4},
    "adam 1e-2": {"learning_rate": 1e-2},
    "nesterov 1e-2": {"optimizer": "nesterov", "learning_rate": 1e-2},
    "nesterov 1e-1": {"optimizer": "nesterov", "learning_rate": 1e-1},
    "rmsprop 1e-3": {"optimizer": "rmsprop", "learning_rate": 1e-3},
    "rmsprop 1e-4": {"optimizer": "rmsprop", "learning_rate": 1e-4},
    "40 epochs plain": EPOCHS_40,
    "40 epochs augmented": EPOCHS_40 | {"flip": "random", "crop": 4, "cutout": 8},
    "best": VGG | {"valid_fraction": 0.1},  # as many held out as in all other rows
}
LONG = ("40 epochs plain", "40 epochs augmented", "best")  # trained with few seeds
# the settings that differ from the assignment's only in the optimizer or the rate
COMPARED = tuple(name for name in SETTINGS if name not in (*LONG, IN_FLOAT32))


@dataclass(frozen=True)
class Config(Options):
    """Train the reduced VGG with several optimizers, rates and seeds."""

    settings: tuple[str, ...] = option(
        (*COMPARED, IN_FLOAT32),
        "named settings, with commas",
        each(one_of(SETTINGS)),
    )
    seeds: int = option(3, "seeds of each setting", seed_count)
    first_seed: int = option(0, "the first of them", not_negative)
    data: str = option("cifar10", f"one of {', '.join(SOURCES)}", one_of(SOURCES))
    data_dir: str = option(
        "data", "where cifar10 is kept, or the folder with train/ and test/", file_path
    )
    max_steps: int = option(5000, "steps of the settings that do not count epochs", positive)
    precision: str = option(
        "bfloat16", "of the settings that do not name theirs", choices=["float32", "bfloat16"]
    )
    width: float = option(1.0, "factor of the channels", positive)
    threads: int = option(0, "CPU threads; 0: one per core", thread_count_or_0)
    out: str = option("runs/cnn_settings", "folder of the runs", file_path)
    results: str = option(None, "JSON file for what all runs found; what it has is kept", file_path)


def main(config: Config) -> list[dict]:
    """Train every setting with every seed; return their rows and those already in `--results`."""
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    rows = sweep(
        config.out,
        config.results,
        itertools.product(config.settings, seeds),
        lambda setting, seed: (cnn_train, member(config, setting, seed)),
        table,
    )
    print(to_text(table(rows)))
    return rows


def member(config: Config, setting: str, seed: int) -> cnn_train.Config:
    """Return the options of scripts/cnn_train.py for a setting and a seed."""
    names = ("data", "data_dir", "width", "threads", "precision")
    shared = {name: getattr(config, name) for name in names}
    own = SETTINGS[setting]
    length = {} if "epochs" in own else {"max_steps": config.max_steps}
    return cnn_train.Config(**shared | length | own | folder_of(config.out, setting, seed))


def table(rows: list[dict]) -> Table:
    """Return a row for each setting, with its accuracies in percent.

    They are given as mean ± standard deviation over the seeds.
    """
    parts = ("train", "validation", "test", "test, mean over views")
    accuracies = [f"{part}, % ({MEAN_SD})" for part in parts]
    header = ("setting", "steps", *accuracies, "n", *ORIGIN)
    by_setting = grouped(rows)
    names = sorted(by_setting, key=place_in(SETTINGS))
    return table_of(header, [cells(name, by_setting[name]) for name in names])


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
