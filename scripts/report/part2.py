"""Part II of the report: the reduced VGG on CIFAR-10."""

from collections.abc import Sequence

import numpy as np

from purenets.core.report.diagrams import network
from purenets.core.report.document import Section
from purenets.core.report.tabulate import as_table, tabulate
from scripts import cnn_sweep, cnn_train, run_quick
from scripts.figures import cnn as figures
from scripts.report.prose import sections
from scripts.report.results import in_small
from scripts.shared.sweeps import grouped, images_of

BATCH = 32  # of the dimensions that are shown
TRAINING_IMAGES = 50_000  # of CIFAR-10, before some are held out for validation
ADAM, BEST = "adam 1e-3", "best"  # the assignment's setting, and the best one


def section(found: dict, quick: run_quick.Config) -> Section:
    """Return Part II; from a quick run where the results are not in `found`."""
    values = structure()
    if "part2_settings" in found:
        values |= {"quick": None} | analysis(found["part2_settings"])
    else:
        missing = dict.fromkeys(("settings", "adam", "optimizers", "best", "gain"))
        values |= {"quick": in_small(run_quick.part2, quick)} | missing
    (part,) = sections("part2", values)
    return part


def structure() -> dict:
    """Return the values of the network and of the assignment's training."""
    import torch

    from purenets.torch_nets import CNN

    rows = tabulate(CNN(3, 10), torch.zeros(BATCH, 3, 32, 32))
    config = training()
    return {
        "batch": BATCH,
        "parameters": sum(row.params for row in rows),
        "vgg-layers": as_table(rows),
        "vgg-dimensions": network(rows, f"Reduced VGG, batch of {BATCH}"),
        "learning_rate": config.learning_rate,
        "batch_size": config.batch_size,
        "max_steps": config.max_steps,
        "valid_fraction": config.valid_fraction,
    }


def training() -> cnn_train.Config:
    """Return the options of the assignment's setting."""
    return cnn_train.Config(**cnn_sweep.SETTINGS[ADAM])


def analysis(found: dict) -> dict:
    """Return the values of the analysis."""
    by_setting = grouped(found["rows"])
    images = images_of(found["rows"])
    source = f"{images}; `python scripts/cnn_sweep.py`, {found['machine']}."
    values = {"images": images, "source": source, "settings": cnn_sweep.table(found["rows"])}
    values |= of_adam(by_setting.get(ADAM)) | of_best(by_setting.get(BEST))
    return values | of_optimizers(by_setting) | {"gain": gain(by_setting)}


def mean_accuracy(rows: Sequence[dict]) -> float:
    """Return the test accuracy, mean of the seeds."""
    return float(np.mean([row["test"]["accuracy"] for row in rows]))


def gain(by_setting: dict) -> float | None:
    """Return by how many points the best setting beats the assignment's; None if one is missing."""
    if not {ADAM, BEST} <= set(by_setting):
        return None
    return 100 * (mean_accuracy(by_setting[BEST]) - mean_accuracy(by_setting[ADAM]))


def of_adam(rows: Sequence[dict] | None) -> dict:
    """Return the values of the assignment's setting."""
    if rows is None:
        return {"adam": None}
    last = [row["history"][-1] for row in rows]
    config = training()
    images = (1 - config.valid_fraction) * TRAINING_IMAGES
    return {
        "adam": figures.parts_curves(rows, "Adam 1e-3"),
        "gap": 100 * np.mean([row["accuracy"] - row["valid_accuracy"] for row in last]),
        "epochs": last[0]["step"] * config.batch_size / images,
    }


def of_optimizers(by_setting: dict) -> dict:
    """Return the values of the comparison of all settings but the best, if there are several."""
    compared = {name: rows for name, rows in by_setting.items() if name != BEST}
    if len(compared) < 2:
        return {"optimizers": None}
    order = sorted(compared, key=lambda name: mean_accuracy(compared[name]))
    lowest, *_, highest = order
    every_row = [row for rows in compared.values() for row in rows]
    return {
        "optimizers": figures.settings_curves(every_row, "Validation"),
        "highest": highest,
        "highest_accuracy": mean_accuracy(compared[highest]),
        "lowest": lowest,
        "lowest_accuracy": mean_accuracy(compared[lowest]),
    }


def of_best(rows: Sequence[dict] | None) -> dict:
    """Return the values of the best setting."""
    if rows is None:
        return {"best": None}
    return {
        "best": figures.parts_curves(rows, "The best setting"),
        "minutes": (rows[0]["training_seconds"] or 0) / 60,
        "classes": figures.per_class(rows, "Test accuracy of each class, the best setting"),
        **of_mistakes(rows[0]),
    }


def of_mistakes(row: dict) -> dict:
    """Return the confusion matrix of a run, and the pairs of classes that it confuses most."""
    counts, names = np.array(row["test"]["confusion"]), row["test"]["classes"]
    both = counts + counts.T
    pairs = [(int(both[i, j]), names[i], names[j]) for i in range(len(names)) for j in range(i)]
    first, second, *_ = sorted(pairs, reverse=True)
    return {
        "confusion": figures.confusion_matrix(counts, names),
        "confusion_seed": row["seed"],
        "mistakes": int(counts.sum() - np.trace(counts)),
        **dict(zip(("first_n", "first_a", "first_b"), first, strict=True)),
        **dict(zip(("second_n", "second_a", "second_b"), second, strict=True)),
    }
