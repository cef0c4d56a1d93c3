"""Part I of the report on CIFAR-10: a network without convolutions, and a fast one with them."""

from collections.abc import Callable, Sequence

import numpy as np

from purenets import Model
from purenets.core.report.diagrams import network
from purenets.core.report.document import Block, Section
from purenets.core.report.tabulate import as_table, tabulate
from purenets.core.runs.history import column
from scripts import cifar10_cnn, cifar10_mlp, cifar10_sweep, run_quick
from scripts.figures import cifar10 as figures
from scripts.report.prose import sections
from scripts.report.results import in_small
from scripts.shared.sweeps import grouped, images_of, spread

BATCH = 16  # of the dimensions that are shown
PIXELS = 3 * 32 * 32


def mlp_section(found: dict, quick: run_quick.Config) -> Section:
    """Return the part on the network without convolutions."""
    from purenets.torch_nets.image_mlps import residual_mlp

    preset = cifar10_mlp.PRESETS["mlp"]
    names = ("width", "depth", "expansion", "learning_rate", "weight_decay", "dropout")
    names += ("mixup_alpha",)
    values = of_network("mlp", residual_mlp(PIXELS, preset.width, preset.depth, 10))
    values |= of_preset(preset, *names, "epochs") | {"pixels": PIXELS}
    values |= analysis_or_quick(found, "mlp", run_quick.part1_mlp, quick)
    (part,) = sections("part1_mlp", values)
    return part


def cnn_section(found: dict, quick: run_quick.Config) -> Section:
    """Return the part on the fast convolutional network."""
    import torch

    from purenets.torch_nets.fast_cnn import FastCNN

    preset = cifar10_cnn.PRESETS[cifar10_cnn.BEST]
    filters = torch.zeros(24, 3, 2, 2)  # their values do not matter here
    net = FastCNN(3, 10, filters=filters, widths=preset.channels, depth=preset.depth)
    values = of_network("cnn", net)
    values |= of_preset(preset, "depth", "small_size", "small_fraction")
    values |= {"features": preset.channels[-1]}
    values |= analysis_or_quick(found, "cnn", run_quick.part1_cnn, quick)
    (part,) = sections("part1_cnn", values)
    return part


def of_network(kind: str, net: Model) -> dict:
    """Return the layers of a network as values: as a table and as a picture."""
    import torch

    rows = tabulate(net, torch.zeros(BATCH, 3, 32, 32))
    title = {"mlp": "The network without convolutions", "cnn": "The fast CNN"}[kind]
    return {
        "batch": BATCH,
        "parameters": sum(row.params for row in rows),
        f"best-{kind}-layers": as_table(rows),
        f"best-{kind}-dimensions": network(rows, f"{title}, batch of {BATCH}"),
    }


def of_preset(preset, *names: str) -> dict:
    """Return the options of both networks' presets, and those of `names`, as values."""
    shared = ("batch_size", "label_smoothing", "crop")
    return {name: getattr(preset, name) for name in (*shared, *names)}


def analysis_or_quick(
    found: dict, kind: str, quick_part: Callable[..., Section], quick: run_quick.Config
) -> dict[str, list[Block]]:
    """Return the analysis of one kind of network; a quick run where it has no results."""
    blocks = analysis(found, kind) if of_kind(found, kind) else in_small(quick_part, quick)
    return {"analysis": blocks}


def analysis(found: dict, kind: str) -> list[Block]:
    """Return the analysis of the results of one kind of network, "mlp" or "cnn"."""
    rows = of_kind(found, kind)
    values = of_headline(rows) | of_ablation(found.get("part1_cifar10_ablation"), kind)
    values |= {
        "kind": kind,
        "source": source(found["part1_cifar10"], "final"),
        f"best-{kind}-settings": cifar10_sweep.table(rows),
        f"best-{kind}-minutes": figures.over_minutes(rows),
        f"best-{kind}-curves": figures.learning_curves(rows),
        f"best-{kind}-confusion": figures.two_confusions(headline(rows)),
    }
    (section,) = sections("part1_cifar10", values)
    return list(section.blocks)


def of_kind(found: dict, kind: str) -> list[dict]:
    """Return the rows of one kind of network, "mlp" or "cnn"; none if their file is missing."""
    rows = found.get("part1_cifar10", {"rows": []})["rows"]
    return [row for row in rows if row["setting"].split()[0] == kind]


def source(found: dict, settings: str) -> str:
    """Return where the results come from, for a caption."""
    command = f"`python scripts/cifar10_sweep.py --settings {settings}`"
    return f"{images_of(found['rows'])}; {command}, {found['machine']}."


def headline(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Return the setting that stands for its kind, with its rows.

    It is the best of those with the most seeds, so that no single lucky run can be chosen.
    """
    by_setting = grouped(list(rows))

    def rank(name: str) -> tuple[int, float]:
        mine = by_setting[name]
        return len(mine), float(np.mean([figures.final(row) for row in mine]))

    best = max(by_setting, key=rank)
    return {best: by_setting[best]}


def reached(rows: Sequence[dict]) -> dict:
    """Return the accuracy, the minutes and the number of seeds of the headline."""
    (mine,) = headline(rows).values()
    return {
        "accuracy": spread([figures.final(row) for row in mine]),
        "minutes": np.mean([row["training_seconds"] for row in mine]) / 60,
        "n": len(mine),
    }


def of_headline(rows: Sequence[dict]) -> dict:
    """Return what the headline reached, in numbers."""
    (mine,) = headline(rows).values()
    views = [figures.final(row) - row["test"]["accuracy"] for row in mine]
    classes = mine[0]["test"]["classes"]
    by_class = figures.class_accuracy(mine)
    worst, *_, best = by_class.argsort()
    return reached(rows) | {
        "from_views": 100 * np.mean(views),
        **of_validation(mine),
        "worst": classes[worst],
        "worst_accuracy": by_class[worst],
        "best": classes[best],
        "best_accuracy": by_class[best],
        **of_other_seeds(rows),
    }


def of_validation(rows: Sequence[dict]) -> dict:
    """Return how far training accuracy is above validation accuracy at the end, and what the latter
    gains late; None where all images are trained on."""
    if not all(map(figures.held_out, rows)):
        return {"gap": None, "late_gain": None}
    last = [row["history"][-1] for row in rows]
    gap = 100 * np.mean([row["accuracy"] - row["valid_accuracy"] for row in last])
    return {"gap": gap, "late_gain": late_gain(rows)}


def of_other_seeds(rows: Sequence[dict]) -> dict:
    """Return what the headline's seeds reached that did not decide which setting it is.

    A row that did has `chosen_among`, the number of settings that were tried. The result is None if
    there was no choice to make, or no other seed.
    """
    (mine,) = headline(rows).values()
    n_settings = max(row.get("chosen_among", 1) for row in mine)
    others = [figures.final(row) for row in mine if "chosen_among" not in row]
    if n_settings == 1 or not others:
        return {"other_seeds": None}
    return {
        "other_seeds": spread(others),
        "n_other_seeds": len(others),
        "n_settings": n_settings,
    }


def late_gain(rows: Sequence[dict]) -> float:
    """Return how many points validation accuracy gains in the last third of the steps."""
    gains = []
    for row in rows:
        steps, accuracy = column(row["history"], "valid_accuracy")
        before = [a for step, a in zip(steps, accuracy, strict=True) if step <= 2 * steps[-1] / 3]
        gains.append(100 * (accuracy[-1] - before[-1]))
    return float(np.mean(gains))


def of_ablation(found: dict | None, kind: str) -> dict:
    """Return the ablation and its largest losses; None if it is missing."""
    if found is None:
        return {"ablation": None}
    rows = found["rows"]
    points = figures.changes(rows, kind)
    changes = {name: float(np.mean(values)) for name, values in points.items()}
    worst = sorted(changes, key=changes.get)[:3]
    seeds = [len(mine) for name, mine in grouped(rows).items() if name.split(":")[0] == kind]
    return {
        "ablation": True,
        f"best-{kind}-ablation": figures.ablation(rows, kind),
        "ablation_n": min(seeds),
        "ablation_source": source(found, "ablation"),
        "largest_losses": ", ".join(f"{name} {changes[name]:+.1f}" for name in worst),
    }
