"""Part I of the report on CIFAR-10: a network without convolutions, and a fast one with them."""

from collections.abc import Callable, Sequence

import numpy as np

from purenets import Model
from purenets.core.report.diagrams import network
from purenets.core.report.document import Block, Section, to_print
from purenets.core.report.tabulate import tabulate
from purenets.core.runs.history import column
from scripts import cifar10_cnn, cifar10_mlp, cifar10_sweep, run_quick
from scripts.figures import cifar10 as figures
from scripts.report import part2
from scripts.report.layer_formulas import formulas
from scripts.report.prose import sections
from scripts.report.results import compact, in_small
from scripts.report.structure import layers
from scripts.shared.comparison import Difference, paired
from scripts.shared.sweeps import grouped, images_of, spread

BATCH = 16  # of the dimensions that are shown
SMALL, MEDIUM = 4.4, 5.2  # inches: the widths of figures of one panel
PIXELS = 3 * 32 * 32
FIRST = 24  # whitening filters of the fast CNN
ENOUGH = 3  # the fewest seeds that allow a conclusion
NONE_HELD_OUT = "on the augmented training images, none held out"
MIXTURES = ", mixtures of two images, where the class of the larger part counts as right"
TITLES = {"mlp": "MLP", "cnn": "fast CNN", "vgg": "reduced VGG"}
OF_TEST = ("test_gap", "overfits", "loss_above")
OF_ABLATION = ("ablation", "ablation_few", "ablation_mixed", "ablation_short", "near_zero", "gains")
SCRIPTS = {"mlp": "cifar10_mlp.py", "cnn": "cifar10_cnn.py", "vgg": "cnn_train.py"}


def mlp_section(found: dict, quick: run_quick.Config) -> Section:
    """Return the part on the network without convolutions."""
    from purenets.torch_nets.image_mlps import residual_mlp

    preset = shown(found, "mlp", cifar10_mlp.PRESETS["mlp"])
    names = ("width", "depth", "expansion", "learning_rate", "weight_decay")
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

    preset = shown(found, "cnn", cifar10_cnn.PRESETS[cifar10_cnn.BEST])
    filters = torch.zeros(FIRST, 3, 2, 2)  # their values do not matter here
    net = FastCNN(3, 10, filters=filters, widths=preset.channels, depth=preset.depth)
    values = of_network("cnn", net)
    values |= of_preset(preset, "depth", "small_size", "small_fraction", "whiten_epochs")
    values |= {"first_biases": FIRST, "residual": preset.depth == 3}
    values |= {"cutout": preset.cutout, "hardest": preset.hardest if preset.hardest < 1 else None}
    around = "The skip connections are not drawn."
    values |= {"features": preset.channels[-1], "around": around if preset.depth == 3 else ""}
    values |= part2.of_course(found.get("part2_settings")) | {"course_name": part2.COURSE}
    values |= analysis_or_quick(found, "cnn", run_quick.part1_cnn, quick)
    (part,) = sections("part1_cnn", values)
    return part


def shown(found: dict, kind: str, preset):
    """Return the options of the training whose results are shown; `preset` if there are none."""
    rows = of_kind(found, kind)
    if not rows:
        return preset
    (setting,) = headline(rows)
    return cifar10_sweep.member(cifar10_sweep.Config(), setting, 0)[1]


def of_network(kind: str, net: Model) -> dict:
    """Return the layers of a network as values: a table, formulas and a diagram."""
    import torch

    rows = tabulate(net, torch.zeros(BATCH, 3, 32, 32))
    return {
        "batch": BATCH,
        "parameters": sum(row.params for row in rows),
        f"best-{kind}-layers": layers(rows, net if kind == "cnn" else None),
        f"best-{kind}-formulas": formulas(rows, soft=True),
        f"best-{kind}-dimensions": network(rows),
    }


def of_preset(preset, *names: str) -> dict:
    """Return the options that both networks need, and those of `names`, as values."""
    shared = ("batch_size", "label_smoothing", "crop")
    return {name: getattr(preset, name) for name in (*shared, *names)}


def analysis_or_quick(
    found: dict, kind: str, quick_part: Callable[..., Section], quick: run_quick.Config
) -> dict[str, list[Block]]:
    """Return the analysis of one kind of network, or a quick run if it has no results."""
    blocks = analysis(found, kind) if of_kind(found, kind) else in_small(quick_part, quick)
    return {"analysis": blocks}


def analysis(found: dict, kind: str) -> list[Block]:
    """Return the analysis of the results of one kind of network, "mlp" or "cnn"."""
    rows = of_kind(found, kind)
    values = of_headline(rows) | of_ablation(found.get("part1_cifar10_ablation"), kind)
    ((setting, mine),) = headline(rows).items()
    named = [row | {"setting": title_of(row["setting"])} for row in rows]
    shown = [row | {"setting": title_of(setting)} for row in mine]
    all_held_out = all(map(figures.held_out, mine))
    values |= {
        "kind": kind,
        "images": images_of(rows),
        "title": title_of(setting),
        "in_a": time_in_a(mine, found.get("benchmarks_cifar10")),
        "trained_on": trained_on(cifar10_sweep.member(cifar10_sweep.Config(), setting, 0)[1]),
        "all_trained_on": not all_held_out,
        "some_held_out": all_held_out,
        "seeds": ", ".join(str(row["seed"]) for row in mine),
        "rows_differ": "; the seeds of each row are in Appendix B"
        if len(grouped(named)) > 1
        else "",
        "curves_of": "in training and on validation images" if all_held_out else NONE_HELD_OUT,
        f"best-{kind}-settings": compact(cifar10_sweep.table(named)),
        f"best-{kind}-curves": figures.learning_curves(shown),
        f"best-{kind}-confusion": to_print(figures.two_confusions(grouped(shown)), SMALL),
    }
    (section,) = sections("part1_cifar10", values)
    return list(section.blocks)


def trained_on(config) -> str:
    """Return how images are mixed or selected in a training, as a text; "" if they are not."""
    mixed = [MIXTURES] if config.mixup else []
    hardest = [f", the hardest {config.hardest:.0%} of each batch"] if config.hardest < 1 else []
    return "".join([*mixed, *hardest])


def time_in_a(rows: Sequence[dict], found: dict | None) -> float | None:
    """Return the training time of one setting in units of the public recipe; None if unknown."""
    return figures.times_in_a(rows, found).get(rows[0]["setting"]) if found else None


def title_of(setting: str) -> str:
    """Return the title of a setting in the report.

    >>> title_of("cnn 94"), title_of("mlp mlp: epochs=30")
    ('fast CNN, preset 94', 'MLP, 30 epochs')
    """
    named, _, changed = setting.partition(": ")
    kind, _, preset = named.partition(" ")
    which = [] if preset in ("", kind) else [f"preset {preset}"]
    return ", ".join([TITLES.get(kind, kind), *which, *in_words(changed)])


def in_words(changed: str) -> list[str]:
    """Return changed options as the report writes them.

    >>> in_words("epochs=30 dirac=false")
    ['30 epochs', 'dirac = false']
    """
    pairs = (word.partition("=")[::2] for word in changed.split())
    return [f"{own} epochs" if name == "epochs" else f"{name} = {own}" for name, own in pairs]


def of_kind(found: dict, kind: str) -> list[dict]:
    """Return the rows of one kind of network, "mlp" or "cnn"; none if their file is missing."""
    rows = found.get("part1_cifar10", {"rows": []})["rows"]
    return [row for row in rows if row["setting"].split()[0] == kind]


def headline(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Return the setting that stands for its kind, with its rows.

    It is the best setting among those with at least ENOUGH seeds, or else among those with the most
    seeds, so that no single lucky run is chosen.
    """
    by_setting = grouped(list(rows))

    def rank(name: str) -> tuple[int, float]:
        mine = by_setting[name]
        return min(len(mine), ENOUGH), float(np.mean([figures.final(row) for row in mine]))

    best = max(by_setting, key=rank)
    return {best: by_setting[best]}


def headline_rows(found: dict, kind: str) -> list[dict]:
    """Return the rows of the headline of one kind of network; none if their file is missing."""
    rows = of_kind(found, kind)
    return next(iter(headline(rows).values())) if rows else []


def reached(rows: Sequence[dict]) -> dict:
    """Return the headline's accuracy on single images and over views, and its number of seeds."""
    (mine,) = headline(rows).values()
    return {
        "single": spread([row["test"]["accuracy"] for row in mine]),
        "accuracy": spread([figures.final(row) for row in mine]),
        "n": len(mine),
    }


def of_headline(rows: Sequence[dict]) -> dict:
    """Return the values that describe the results of the headline."""
    ((setting, mine),) = headline(rows).items()
    views = paired([figures.final(row) for row in mine], [row["test"]["accuracy"] for row in mine])
    classes = mine[0]["test"]["classes"]
    by_class = figures.class_accuracy(mine)
    worst, *_, best = by_class.argsort()
    return reached(rows) | {
        "preset": preset_of(setting),
        "from_views": views.points() if "views" in mine[0]["test"] else None,
        "viewed": viewed(mine[0]["test"]),
        **of_validation(mine),
        **of_test(mine),
        "worst": classes[worst],
        "worst_accuracy": by_class[worst],
        "best": classes[best],
        "best_accuracy": by_class[best],
    }


def preset_of(setting: str) -> str:
    """Return a setting in words: its preset, its script and the changed options.

    >>> preset_of("cnn 94: epochs=10")
    'preset `94` of `scripts/cifar10_cnn.py` with 10 epochs'
    """
    named, _, changed = setting.partition(": ")
    kind, _, preset = named.partition(" ")
    text = f"preset `{preset}` of `scripts/{SCRIPTS[kind]}`"
    return f"{text} with {', '.join(in_words(changed))}" if changed else text


def viewed(test: dict) -> str:
    """Return, as a text, for which test images views were taken."""
    below = test.get("views_below")
    if below is None:
        return "each test image"
    return f"those test images that have no class with a probability of {below:.0%} or more"


def of_validation(rows: Sequence[dict]) -> dict:
    """Return the final gap from training to validation accuracy, and the latter's late gain.

    Both are None if a run held out no images.
    """
    if not all(map(figures.held_out, rows)):
        return {"gap": None, "late_gain": None}
    last = [row["history"][-1] for row in rows]
    gap = paired([row["accuracy"] for row in last], [row["valid_accuracy"] for row in last])
    return {"gap": gap.points(), "late_gain": late_gain(rows).points()}


def of_test(rows: Sequence[dict]) -> dict:
    """Return the final training accuracy minus the test accuracy, and both losses.

    `overfits` is True if the difference is clearly positive. All are None if images were held out,
    for then validation shows the gap.
    """
    if all(map(figures.held_out, rows)):
        return dict.fromkeys(OF_TEST)
    last, tests = [row["history"][-1] for row in rows], [row["test"] for row in rows]
    change = paired(*([one["accuracy"] for one in found] for found in (last, tests)))
    overfits = change.is_clear and change.mean > 0
    return {
        "test_gap": change.points(),
        "fit": spread([one["accuracy"] for one in last]),
        "fit_steps": last[0]["step"] - rows[0]["history"][-2]["step"],
        "overfits": overfits,
        "loss_above": all(a["loss"] > b["loss"] for a, b in zip(last, tests, strict=True)),
        "fit_loss": f"{np.mean([one['loss'] for one in last]):.2f}",
        "test_loss": f"{np.mean([test['loss'] for test in tests]):.2f}",
    }


def late_gain(rows: Sequence[dict]) -> Difference:
    """Return the gain in validation accuracy in the last third of the steps, paired by seed."""
    at_end, before = [], []
    for row in rows:
        steps, accuracy = column(row["history"], "valid_accuracy")
        early = [a for step, a in zip(steps, accuracy, strict=True) if step <= 2 * steps[-1] / 3]
        at_end.append(accuracy[-1])
        before.append(early[-1])
    return paired(at_end, before)


def of_ablation(found: dict | None, kind: str) -> dict:
    """Return the ablation and its largest losses; each value is None if it is missing."""
    if found is None:
        return dict.fromkeys(OF_ABLATION)
    rows = found["rows"]
    points = {
        name: paired(np.array(values) / 100, np.zeros(len(values)))
        for name, values in figures.changes(rows, kind).items()
    }
    points = {name: own for name, own in points.items() if own.n[0] > 1}  # of one seed: nothing
    if not points:
        return dict.fromkeys(OF_ABLATION)
    seeds = [own.n[0] for own in points.values()]
    rows = [row for row in rows if row["setting"].removeprefix(f"{kind}: ") in (kind, *points)]
    few = min(seeds) < ENOUGH
    worst = sorted(points, key=lambda name: points[name].mean)[:3]
    return {
        "ablation": True,
        f"best-{kind}-ablation": to_print(figures.ablation(rows, kind), MEDIUM),
        "ablation_n": min(seeds),
        "ablation_images": images_of(rows),
        **of_shortened(kind),
        "largest_losses": ", ".join(f"{name} ({points[name].points()})" for name in worst),
        "ablation_few": few,
        "ablation_reach": errors_in_interval(min(seeds)),
        "ablation_mixed": mixed(rows, kind),
        "near_zero": None if few else near_zero(points),
        "gains": None if few else gains(points),
    }


def errors_in_interval(n: int) -> float:
    """Return how many standard errors of `n` values a 95% interval reaches to each side."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.975))


def mixed(rows: Sequence[dict], kind: str) -> bool:
    """Return whether a change ran on another machine than the whole recipe of its seed."""
    whole = {row["seed"]: row["machine"] for row in rows if row["setting"] == kind}
    return any(row["machine"] != whole.get(row["seed"], row["machine"]) for row in rows)


def of_shortened(kind: str) -> dict:
    """Return which training the ablation varies, and whether it is shorter than its preset."""
    script, preset, values, _ = cifar10_sweep.CHANGES[kind]
    part = values["epochs"] / cifar10_sweep.SCRIPTS[script].PRESETS[preset].epochs
    length = "at its own length" if part == 1 else f"in {part:.0%} of its length"
    return {"ablation_of": f"the preset `{preset}` {length}", "ablation_short": part < 1}


def gains(points: dict[str, Difference]) -> str | None:
    """Return the changes with a clear gain, as a text; None if there are none."""
    found = {name: change for name, change in points.items() if change.mean > 0}
    texts = [f"{name} ({own.points()})" for name, own in found.items() if own.is_clear]
    return ", ".join(texts) or None


def near_zero(points: dict[str, Difference]) -> str | None:
    """Return the changes without a clear effect, as a text; None if there are none."""
    names = [name for name, change in points.items() if not change.is_clear]
    return ", ".join(names) or None
