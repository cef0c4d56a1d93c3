"""Part I, task 3: settings and seeds of scripts/cifar10_cnn.py and scripts/cifar10_mlp.py.

    python scripts/cifar10_sweep.py --settings final --results results/part1_cifar10.json
    python scripts/cifar10_sweep.py --settings ablation --results results/x.json

A setting is a preset of one of the two scripts, or one of VARIANTS: a preset with an ingredient
changed. Runs and rows are kept as scripts/cnn_sweep.py keeps them.
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
from scripts import cifar10_cnn, cifar10_mlp
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.sweeps import MEAN_SD, folder_of, grouped, spread, sweep, trained

SCRIPTS = {"cnn": cifar10_cnn, "mlp": cifar10_mlp}
PRESETS = {
    f"{kind} {name}": (kind, name, {})
    for kind, script in SCRIPTS.items()
    for name in script.PRESETS
}

# presets in short, and with one ingredient changed: what each of them gives, on a fifth of the
# training images
SHORT = {"views": "none", "valid_fraction": 0.2}
CNN, MLP = SHORT | {"epochs": 2.0}, SHORT | {"epochs": 5.0}
VARIANTS = {
    "cnn": ("cnn", "94", CNN),
    "cnn: trained first layer": ("cnn", "94", CNN | {"whiten": False}),
    "cnn: no identity at the start": ("cnn", "94", CNN | {"dirac": False}),
    "cnn: Nesterov": ("cnn", "94", CNN | {"optimizer": "nesterov", "learning_rate": 1.5e-3}),
    "cnn: no label smoothing": ("cnn", "94", CNN | {"label_smoothing": 0.0}),
    "cnn: random flip": ("cnn", "94", CNN | {"flip": "random"}),
    "cnn: no flip": ("cnn", "94", CNN | {"flip": "none"}),
    "cnn: no crop": ("cnn", "94", CNN | {"crop": 0}),
    "cnn: logits 10 times": ("cnn", "94", CNN | {"logit_scale": 10.0}),
    "cnn: batches of 2000": ("cnn", "94", CNN | {"batch_size": 2000, "learning_rate": 0.24}),
    "mlp": ("mlp", "mlp", MLP),
    "mlp: AdamW": ("mlp", "mlp", MLP | {"optimizer": "adamw", "learning_rate": 1e-3}),
    "mlp: Nesterov": (
        "mlp",
        "mlp",
        MLP | {"optimizer": "nesterov", "learning_rate": 0.1, "weight_decay": 5e-4},
    ),
    "mlp: plain": ("mlp", "mlp", MLP | {"net": "plain", "hidden": (2048, 1024, 1024)}),
    "mlp: BatchNorm": ("mlp", "mlp", MLP | {"net": "batch_norm", "hidden": (2048, 1024, 1024)}),
    "mlp: no label smoothing": ("mlp", "mlp", MLP | {"label_smoothing": 0.0}),
    "mlp: no flip": ("mlp", "mlp", MLP | {"flip": "none"}),
    "mlp: no crop": ("mlp", "mlp", MLP | {"crop": 0}),
    "mlp: no weight decay": ("mlp", "mlp", MLP | {"weight_decay": 0.0}),
    "mlp: mixup": ("mlp", "mlp", MLP | {"mixup": True}),
    "mlp: no dropout": ("mlp", "mlp", MLP | {"dropout": 0.0}),
}
GROUPS = {"final": [f"cnn {cifar10_cnn.BEST}", "mlp mlp"], "ablation": list(VARIANTS)}


@dataclass(frozen=True)
class Config(Options):
    """Train presets and variants of them with several seeds."""

    settings: tuple[str, ...] = option(
        ("ablation",),
        "presets, variants and groups, with commas",
        each(one_of([*GROUPS, *PRESETS, *VARIANTS])),
    )
    seeds: int = option(3, "seeds of each setting", seed_count)
    first_seed: int = option(0, "the first of them", not_negative)
    valid_fraction: float = option(
        None, "the part of training images held out; by default the preset's", positive
    )
    data: str = option(
        "folder", "cifar10, folder or digits", choices=["cifar10", "folder", "digits"]
    )
    data_dir: str = option(
        "data/cifar10-jpeg75", "where cifar10 is kept, or the folder of images", file_path
    )
    threads: int = option(0, "CPU threads; 0 for one a core", thread_count_or_0)
    out: str = option("runs/cifar10", "folder of the runs", file_path)
    results: str = option(None, "JSON file for what all runs found; what it has is kept", file_path)


def expanded(settings: tuple[str, ...]) -> list[str]:
    """Return the presets and variants that `--settings` stands for, each once."""
    return list(dict.fromkeys(itertools.chain(*(GROUPS.get(name, [name]) for name in settings))))


def member(config: Config, setting: str, seed: int) -> tuple:
    """The script and its Config of a setting and a seed."""
    kind, preset, changes = (PRESETS | VARIANTS)[setting]
    script = SCRIPTS[kind]
    values = script.PRESETS[preset].to_dict() | changes | folder_of(config.out, setting, seed)
    values |= {"data": config.data, "data_dir": config.data_dir, "threads": config.threads}
    if config.valid_fraction is not None:
        values["valid_fraction"] = config.valid_fraction
    return script, script.Config.from_dict(values)


def main(config: Config) -> list[dict]:
    """Every setting and seed; their rows, and those that `--results` had."""
    names = expanded(config.settings)
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    rows = sweep(
        config.out,
        config.results,
        itertools.product(names, seeds),
        lambda setting, seed: trained(*member(config, setting, seed)),
        table,
    )
    print(to_text(table(rows)))
    return rows


def table(rows: list[dict]) -> Table:
    """Return a row for each setting: accuracies in percent, mean ± standard deviation over the
    seeds, and the mean of the minutes of training."""
    parts = ("validation", "test", "test, mean over views")
    accuracies = [f"{part}, % ({MEAN_SD})" for part in parts]
    header = ("setting", "steps", *accuracies, "minutes", "n", *ORIGIN)
    return table_of(header, [cells(name, mine) for name, mine in grouped(rows).items()])


def cells(setting: str, rows: list[dict]) -> tuple:
    """Return a setting's row of the table."""
    last = [row["history"][-1] for row in rows]
    return (
        setting,
        f"{last[0]['step']:,}",
        spread([row.get("valid_accuracy") for row in last]),
        spread([row["test"]["accuracy"] for row in rows]),
        spread([row["test"].get("views_accuracy") for row in rows]),
        f"{sum(row['training_seconds'] for row in rows) / len(rows) / 60:.1f}",
        len(rows),
        *origin_cells(rows),
    )


if __name__ == "__main__":
    command(Config, main)
