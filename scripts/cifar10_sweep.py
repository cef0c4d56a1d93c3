"""Train CIFAR-10 settings of cifar10_cnn.py, cifar10_mlp.py and cnn_train.py with several seeds.

    python scripts/cifar10_sweep.py --settings "cnn 94,cnn 94: epochs=10 hardest=0.5" --choose \
        --results results/x.json
    python scripts/cifar10_sweep.py --settings ablation --seeds 2 --results results/x.json
    python scripts/cifar10_sweep.py --settings final --first_seed 100 --results results/y.json

A setting is a preset of one of the three scripts ("cnn 94"), a preset with changed options ("cnn
94: epochs=10 channels=64x256x256 dirac=false"), or one of VARIANTS: a preset without one of its
ingredients. The name of a setting describes it, and every setting that was tried is a row of the
results.

Settings are selected on 5,000 held-out training images (with --choose, and for the variants); the
test images are not used for this. Final runs train on all 50,000 images, with seeds that took no
part in the selection, and each uses the test images once. Runs and rows are stored in the same way
as by scripts/cnn_sweep.py.
"""

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

import numpy as np

from purenets import UserError
from purenets.core.report.tables import Table, table_of, to_text
from purenets.core.runs.command import command
from purenets.core.runs.options import (
    Options,
    each,
    file_path,
    not_negative,
    one_of,
    option,
    seed_count,
    thread_count_or_0,
)
from scripts import cifar10_cnn, cifar10_mlp, cnn_train
from scripts.shared.images import SOURCES
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.schemas import VALID_VIEWS
from scripts.shared.sweeps import (
    MEAN_SD,
    changes,
    folder_of,
    grouped,
    spread,
    sweep,
)

SCRIPTS = {"cnn": cifar10_cnn, "mlp": cifar10_mlp, "vgg": cnn_train}
PRESETS = {
    f"{kind} {name}": (kind, name, {})
    for kind, script in SCRIPTS.items()
    for name in script.PRESETS
}
CHOOSE = {"valid_fraction": 0.1, "test": False}  # 5,000 of CIFAR-10's 50,000 training images


def shortened(kind: str, preset: str, part: float) -> dict:
    """Return the changes that turn a preset into a selection run with a fraction of its epochs."""
    return CHOOSE | {"epochs": SCRIPTS[kind].PRESETS[preset].epochs * part}


# presets without one of their ingredients: 94 at its own length, the others at a tenth of theirs
CNN = shortened("cnn", "94", 1.0)
MLP = shortened("mlp", "mlp", 0.1)
VGG = shortened("vgg", "vgg", 0.1)
CHANGES: dict[str, tuple[str, str, dict, dict[str, dict]]] = {
    "cnn": (
        "cnn",
        "94",
        CNN,
        {
            "trained first layer": {"whiten": False},
            "no bias of the first layer": {"whiten_epochs": 0.0},
            "no identity at the start": {"dirac": False},
            "Nesterov": {"optimizer": "nesterov", "learning_rate": 1.5e-3},
            "Muon's products in direct order": {"muon_method": "direct"},
            "no label smoothing": {"label_smoothing": 0.0},
            "random flip": {"flip": "random"},
            "no flip": {"flip": "none"},
            "no crop": {"crop": 0},
            "full size throughout": {"small_size": 0},
            "logits 10 times": {"logit_scale": 10.0},
        },
    ),
    "mlp": (
        "mlp",
        "mlp",
        MLP,
        {
            "AdamW": {"optimizer": "adamw", "learning_rate": 1e-3, "muon_method": "direct"},
            "Nesterov": {
                "optimizer": "nesterov",
                "learning_rate": 0.1,
                "weight_decay": 5e-4,
                "muon_method": "direct",
            },
            "plain": {"net": "plain", "hidden": (2048, 1024, 1024)},
            "BatchNorm without residuals": {"net": "batch_norm", "hidden": (2048, 1024, 1024)},
            "linear bottlenecks": {
                "net": "bottleneck",
                "hidden": (2048, 2048, 2048),
                "bottleneck": 512,
            },
            "BatchNorm for LayerNorm": {"norm": "batch"},
            "whitened inputs": {"pca": 1024},
            "no label smoothing": {"label_smoothing": 0.0},
            "no flip": {"flip": "none"},
            "no crop": {"crop": 0},
            "no weight decay": {"weight_decay": 0.0},
            "no mixup": {"mixup": False, "mixup_alpha": 1.0},
        },
    ),
    "vgg": (
        "vgg",
        "vgg",
        VGG,
        {
            "PyTorch's initialization": {"dirac": False},
            "Adam": {"optimizer": "adam", "learning_rate": 1e-3, "muon_method": "direct"},
            "no label smoothing": {"label_smoothing": 0.0},
            "random flip": {"flip": "random"},
            "no crop": {"crop": 0},
            "full size throughout": {"small_size": 0},
        },
    ),
}
VARIANTS = {
    name: (kind, preset, short | change)
    for base, (kind, preset, short, own) in CHANGES.items()
    for name, change in [
        (base, {}),
        *((f"{base}: {text}", change) for text, change in own.items()),
    ]
}
GROUPS = {
    "final": ["cnn 94", "cnn 95", "cnn 96", "vgg vgg-long", "mlp mlp"],
    "ablation": list(VARIANTS),
}


OF_SWEEP = ("preset", "data", "data_dir", "seed", "threads", "out", "resume")


def known_setting(setting: str) -> str | None:
    """Check the name of a setting; the options that it changes are checked by `member`."""
    base, colon, _ = str(setting).partition(": ")  # a file may hold anything
    if colon and base in PRESETS:
        return None
    return one_of(known_setting.names)(setting)


known_setting.names = (*GROUPS, *PRESETS, *VARIANTS)


@dataclass(frozen=True)
class Config(Options):
    """Train presets and variants of them with several seeds."""

    settings: tuple[str, ...] = option(
        ("ablation",),
        "presets, presets with options changed, variants and groups, with commas",
        each(known_setting),
    )
    choose: bool = option(
        False, "hold out 5,000 training images, and do not look at the test images"
    )
    seeds: int = option(3, "seeds of each setting", seed_count)
    first_seed: int = option(0, "the first of them", not_negative)
    valid_fraction: float = option(
        None, "the part of training images held out; by default the setting's", not_negative
    )
    data: str = option("cifar10", f"one of {', '.join(SOURCES)}", one_of(SOURCES))
    data_dir: str = option(
        "data", "where cifar10 is kept, or the folder with train/ and test/", file_path
    )
    threads: int = option(0, "CPU threads; 0: one per core", thread_count_or_0)
    out: str = option("runs/cifar10", "folder of the runs", file_path)
    results: str = option(None, "JSON file for what all runs found; what it has is kept", file_path)


def expanded(settings: tuple[str, ...]) -> list[str]:
    """Return the settings with groups replaced by their members, without duplicates."""
    return list(dict.fromkeys(itertools.chain(*(GROUPS.get(name, [name]) for name in settings))))


def member(config: Config, setting: str, seed: int) -> tuple:
    """Return the script of a setting, and its Config for a seed."""
    kind, preset, changes = (PRESETS | VARIANTS).get(setting) or changed(setting)
    script = SCRIPTS[kind]
    out = str(Path(config.out) / "choose") if config.choose else config.out
    values = script.PRESETS[preset].to_dict() | changes | folder_of(out, setting, seed)
    values |= {"data": config.data, "data_dir": config.data_dir, "threads": config.threads}
    if config.choose:
        values |= CHOOSE
        if setting not in VARIANTS and changes.keys() & CHOOSE.keys():
            raise UserError(f"{setting}: --choose sets {' and '.join(CHOOSE)}; leave them out")
        if config.valid_fraction == 0:
            raise UserError("--valid_fraction 0: --choose needs held-out images")
    elif "final" in config.settings and setting in GROUPS["final"]:
        values["valid_fraction"] = 0.0  # nothing is selected: train on all images
    if config.valid_fraction is not None:
        values["valid_fraction"] = config.valid_fraction
    return script, script.Config.from_dict(values)


def changed(setting: str) -> tuple[str, str, dict]:
    """Return script, preset and changed options of a setting "cnn 94: epochs=10 dirac=false"."""
    base, _, text = setting.partition(": ")
    kind, preset, _ = PRESETS[base]
    pairs = [word.partition("=")[::2] for word in text.split()]
    for name, _ in pairs:
        if name in OF_SWEEP:
            raise UserError(f"{setting}: {name} is set by the sweep for all; leave it out")
    flags = [word for name, value in pairs for word in flag(name, value)]
    presets = SCRIPTS[kind].PRESETS
    config = SCRIPTS[kind].Config.parse(["--preset", preset, *flags], presets)
    return kind, preset, {name: config.to_dict()[name] for name, _ in pairs}


def flag(name: str, value: str) -> list[str]:
    """Return the command-line words for an option; "64x256" stands for the list 64,256."""
    if value in ("true", "false"):
        return [f"--{name}" if value == "true" else f"--no-{name}"]
    is_list = value.replace("x", "").isdigit() and "x" in value
    return [f"--{name}", value.replace("x", ",") if is_list else value]


def main(config: Config) -> list[dict]:
    """Train every setting with every seed; return their rows and those already in `--results`."""
    names = expanded(config.settings)
    for name in names:
        member(config, name, config.first_seed)  # report errors before the first training
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    rows = sweep(
        config.out,
        config.results,
        itertools.product(names, seeds),
        lambda setting, seed: member(config, setting, seed),
        table,
    )
    print(to_text(table(rows)))
    held_out = [row for row in rows if "valid_accuracy" in row["history"][-1]]
    compared = {row["setting"] for row in held_out}
    for base in CHANGES:
        if base in compared and any(setting.startswith(f"{base}: ") for setting in compared):
            print(f"\n{to_text(differences(held_out, base))}")
    return rows


def table(rows: list[dict]) -> Table:
    """Return a row for each setting, with its accuracies in percent.

    They are given as mean ± standard deviation over the seeds. The accuracy over views on held-out
    images has a column only if a run has measured it.
    """
    held_out = ["validation, mean over views"] if any(row.get(VALID_VIEWS) for row in rows) else []
    parts = ("validation", *held_out, "test", "test, mean over views")
    accuracies = [f"{part}, % ({MEAN_SD})" for part in parts]
    header = ("setting", "steps", *accuracies, "n", *ORIGIN)
    groups = grouped(rows).items()
    return table_of(header, [cells(name, mine, bool(held_out)) for name, mine in groups])


def cells(setting: str, rows: list[dict], held_out: bool) -> tuple:
    """Return a setting's row of the table."""
    over_views = [spread([row.get(VALID_VIEWS) for row in rows])] if held_out else []
    last = [row["history"][-1] for row in rows]
    return (
        setting,
        f"{last[0]['step']:,}",
        spread([row.get("valid_accuracy") for row in last]),
        *over_views,
        spread([row["test"].get("accuracy") for row in rows]),
        spread([row["test"].get("views_accuracy") for row in rows]),
        len(rows),
        *origin_cells(rows),
    )


def differences(rows: list[dict], base: str) -> Table:
    """Return a row for each variant of `base` with its difference in validation accuracy.

    The difference is a mean over seeds in percentage points, where each seed is compared with the
    same seed of `base`. Beside it stands the standard error of that mean.
    """
    points = changes(rows, base)
    header = (f"{base}, changed", "points of validation accuracy", "standard error", "n")
    return table_of(
        header,
        [
            (name, f"{np.mean(values):+.2f}", standard_error(values), len(values))
            for name, values in points.items()
            if values  # of seeds that `base` has too
        ],
    )


def standard_error(values: list[float]) -> str:
    return f"{np.std(values, ddof=1) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""


if __name__ == "__main__":
    command(Config, main)
