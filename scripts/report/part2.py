"""Part II of the report: the reduced VGG on CIFAR-10."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from purenets.core.report.diagrams import network
from purenets.core.report.document import Section, to_print
from purenets.core.report.tables import Table, table_of
from purenets.core.report.tabulate import tabulate
from purenets.core.runs.history import column
from scripts import cnn_sweep, cnn_train, run_quick
from scripts.figures import cifar10 as cifar10_figures
from scripts.figures import cnn as figures
from scripts.report.layer_formulas import formulas
from scripts.report.prose import sections
from scripts.report.results import compact, in_small
from scripts.report.structure import layers
from scripts.shared.comparison import Difference, paired, unpaired
from scripts.shared.sweeps import grouped, images_of, spread

BATCH = 32  # of the dimensions that are shown
SMALL = 4.4  # inches: the width of figures of one panel
TRAINING_IMAGES, TEST_IMAGES = 50_000, 10_000  # of CIFAR-10; of the first some are held out
ADAM, BEST = "adam 1e-3", "best"  # the assignment's setting, and the best one
# each setting adds one thing to the one before it: more epochs, augmentation, the best recipe
LADDER = (ADAM, "40 epochs plain", "40 epochs augmented", BEST)
COURSE = LADDER[2]  # the best one by Nesterov momentum, flips, shifts and cutout alone
OF_OPTIMIZERS = ("optimizers", "chosen", "clear", "not_clear", "below", "from_adam", "comparisons")
OF_LADDER = ("ladder", "ladder_unclear")


def section(found: dict, quick: run_quick.Config) -> Section:
    """Return Part II, with a quick run in place of results that `found` lacks."""
    values = structure()
    if "part2_settings" in found:
        values |= {"quick": None} | analysis(found["part2_settings"])
        values |= of_final(found.get("part1_cifar10"))
    else:
        missing = ("settings", "mixed", "adam", "adam_fits", "precision", "precision_elsewhere")
        missing += (*OF_OPTIMIZERS, *OF_LADDER, "best", "gain", "final")
        values |= {"quick": in_small(run_quick.part2, quick)} | dict.fromkeys(missing)
    (part,) = sections("part2", values)
    return part


def structure() -> dict:
    """Return the values of the network and of the assignment's training."""
    import torch

    from purenets.torch_nets import CNN

    net = CNN(3, 10)
    rows = tabulate(net, torch.zeros(BATCH, 3, 32, 32))
    config = training()
    held_out = round(config.valid_fraction * TRAINING_IMAGES)
    return {
        "batch": BATCH,
        "adam_name": ADAM,
        "parameters": sum(row.params for row in rows),
        "vgg-layers": layers(rows, net),
        "vgg-formulas": formulas(rows),
        "vgg-dimensions": network(rows),
        "learning_rate": config.learning_rate,
        "batch_size": config.batch_size,
        "max_steps": config.max_steps,
        "product_type": cnn_sweep.Config().precision,
        "valid_images": held_out,
        "train_images": TRAINING_IMAGES - held_out,
        "test_images": TEST_IMAGES,
    }


def training() -> cnn_train.Config:
    """Return the options of the assignment's setting."""
    return cnn_train.Config(**cnn_sweep.SETTINGS[ADAM])


def analysis(found: dict) -> dict:
    """Return the values of the analysis."""
    by_setting = grouped(found["rows"])
    values = {
        "images": images_of(found["rows"]),
        "settings": compact(cnn_sweep.table(found["rows"])),
        "mixed": any(len({row["machine"] for row in mine}) > 1 for mine in by_setting.values()),
    }
    values |= of_adam(by_setting.get(ADAM)) | of_best(by_setting.get(BEST))
    values |= of_precision(by_setting)
    return values | of_optimizers(by_setting) | of_ladder(by_setting) | of_gain(by_setting)


def accuracies(rows: Sequence[dict]) -> list[float]:
    """Return the test accuracy of each seed."""
    return [row["test"]["accuracy"] for row in rows]


def compared(a: Sequence[dict], b: Sequence[dict]) -> Difference:
    """Return the test accuracy of setting `a` minus that of setting `b`.

    It is never paired: the same seeds of two settings may have run on different machines.
    """
    return unpaired(accuracies(a), accuracies(b))


def of_precision(by_setting: dict) -> dict:
    """Return the effect of bfloat16 in the assignment's setting.

    None unless both precisions have several seeds.
    """
    both = [by_setting.get(name, ()) for name in (ADAM, cnn_sweep.IN_FLOAT32)]
    if min(map(len, both)) < 2:
        return {"precision": None, "precision_elsewhere": None}
    origins = [{(row["machine"], row["torch"]) for row in rows} for rows in both]
    return {
        "precision_elsewhere": origins[0] != origins[1],
        "precision": compared(*both).points(),
        "float32": spread(accuracies(both[1])),
        "precision_n": len(both[1]),
    }


def of_gain(by_setting: dict) -> dict:
    """Return the accuracy of the best setting minus that of the assignment's.

    None if one of them is missing or has a single seed, which allows no conclusion.
    """
    if not {ADAM, BEST} <= set(by_setting):
        return {"gain": None}
    gain = compared(by_setting[BEST], by_setting[ADAM])
    if gain.standard_error is None:
        return {"gain": None}
    return {
        "gain": gain.points(),
        "gain_n": " and ".join(map(str, gain.n)),
    }


def of_adam(rows: Sequence[dict] | None) -> dict:
    """Return the values of the assignment's setting."""
    if rows is None:
        return {"adam": None, "adam_fits": None}
    apart = gap(rows)
    several = apart.standard_error is not None
    before, last = (row["step"] for row in rows[0]["history"][-2:])
    return {
        "adam": figures.parts_curves(rows, "Adam 1e-3"),
        "adam_lines": f"; each line is a seed (n = {len(rows)})" if several else " (one seed)",
        "gap_steps": last - before,
        "gap": apart.points(),
        "adam_error": f" (± standard error, n = {len(rows)})" if several else " (n = 1)",
        "adam_fits": apart.is_clear and apart.mean > 0,
        "wobble": wobble(rows).points().lstrip("+"),
        "wobble_n": len(moves(rows[0])),
        "epochs": epochs(ADAM, rows),
    }


def wobble(rows: Sequence[dict]) -> Difference:
    """Return the mean change, up or down, of validation accuracy in the second half of training."""
    means = [float(moves(row).mean()) for row in rows]
    return paired(means, np.zeros(len(means)))


def moves(row: dict) -> np.ndarray:
    """Return the absolute changes of validation accuracy from one evaluation to the next.

    Only the second half of the training counts.
    """
    _, values = column(row["history"], "valid_accuracy")
    return np.abs(np.diff(values[len(values) // 2 :]))


def gap(rows: Sequence[dict]) -> Difference:
    """Return the final training accuracy minus the validation accuracy, paired by seed."""
    last = [row["history"][-1] for row in rows]
    return paired([row["accuracy"] for row in last], [row["valid_accuracy"] for row in last])


def epochs(setting: str, rows: Sequence[dict]) -> float:
    """Return the number of epochs of a setting."""
    config = cnn_train.Config(**cnn_sweep.SETTINGS[setting])
    images = (1 - config.valid_fraction) * TRAINING_IMAGES
    return config.epochs or rows[0]["history"][-1]["step"] * config.batch_size / images


def of_optimizers(by_setting: dict) -> dict:
    """Return the values of the comparison of optimizers and rates, if there are several.

    The setting that is chosen, and the last one, are those of the highest and the lowest validation
    accuracy among the settings with at least two seeds. Test accuracy is only compared.
    """
    short = {name: rows for name, rows in by_setting.items() if name in cnn_sweep.COMPARED}
    if len(short) < 2:
        return dict.fromkeys(OF_OPTIMIZERS)
    every_row = [row for rows in short.values() for row in rows]
    several = {name: rows for name, rows in short.items() if len(rows) > 1}
    lines = "mean of the seeds, and their range" if several else "one seed each"
    values = {
        "optimizers": figures.settings_curves(every_row, training=True),
        "optimizers_lines": lines,
    }
    if len(several) < 2:
        return dict.fromkeys(OF_OPTIMIZERS) | values
    last, *_, chosen = sorted(several, key=lambda name: np.mean(validation(several[name])))
    best = several[chosen]
    others = {name: rows for name, rows in several.items() if name != chosen}
    changes = {name: compared(rows, best) for name, rows in others.items()}
    unclear = [name for name, change in changes.items() if not change.is_clear]
    below = [name for name in unclear if every_seed_is_lower(several[name], best)]
    level = [name for name in unclear if name not in below]
    adam = several.get(ADAM) if chosen != ADAM else None
    from_adam = {n: compared(rows, adam) for n, rows in several.items() if n != ADAM and adam}
    return values | {
        "chosen": chosen,
        "chosen_valid": spread(validation(best)),
        "chosen_accuracy": spread(accuracies(best)),
        "last": last,
        "last_valid": spread(validation(several[last])),
        "last_accuracy": spread(accuracies(several[last])),
        "clear": clear(changes),
        "not_clear": ", ".join(level) or None,
        "below": ", ".join(below) or None,
        "from_adam": clear(from_adam),
        "comparisons": len(changes) + max(len(from_adam) - 1, 0),  # one pair is in both
    }


def validation(rows: Sequence[dict]) -> list[float]:
    """Return the validation accuracy of each seed at the end of its training."""
    return [row["history"][-1]["valid_accuracy"] for row in rows]


def clear(changes: Mapping[str, Difference]) -> str | None:
    """Return the differences whose 95% interval excludes 0, as a text; None if there are none."""
    found = [f"{change.points()} ({name})" for name, change in changes.items() if change.is_clear]
    return ", ".join(found) or None


def every_seed_is_lower(rows: Sequence[dict], best: Sequence[dict]) -> bool:
    """Return whether every seed is below every seed of the best setting in test accuracy."""
    return max(accuracies(rows)) < min(accuracies(best))


def of_ladder(by_setting: dict) -> dict:
    """Return the gains from more epochs, from augmentation and from the best recipe.

    None if fewer than two settings of LADDER have at least two seeds.
    """
    steps = [name for name in LADDER if len(by_setting.get(name, ())) > 1]
    if len(steps) < 2:
        return dict.fromkeys(OF_LADDER)
    changes = {
        f"{before} to {name}": compared(by_setting[name], by_setting[before])
        for before, name in itertools.pairwise(steps)
    }
    longer = cnn_train.Config(**cnn_sweep.SETTINGS[LADDER[1]])
    return {
        "ladder": ladder(by_setting, steps),
        "ladder_steps": "; ".join(f"{name} {own.points()}" for name, own in changes.items()),
        "ladder_unclear": "; ".join(n for n, own in changes.items() if not own.is_clear) or None,
        "ladder_gaps": ", ".join(gap(by_setting[name]).points() for name in steps),
        "long_optimizer": longer.optimizer.capitalize(),
        "long_batch": longer.batch_size,
    }


def ladder(by_setting: dict, steps: Sequence[str]) -> Table:
    """Return a row for each setting: epochs, accuracies, and the change from the row above."""
    header = (
        "setting",
        "epochs",
        "test, %",
        "training less validation, points",
        "gain, points",
        "n",
    )
    rows = []
    for before, name in zip((None, *steps), steps, strict=False):
        mine = by_setting[name]
        change = compared(mine, by_setting[before]).points() if before else ""
        told = (f"{epochs(name, mine):.1f}", spread(accuracies(mine)), gap(mine).points())
        rows.append((name, *told, change, len(mine)))
    return table_of(header, rows)


def of_best(rows: Sequence[dict] | None) -> dict:
    """Return the values of the best setting."""
    if rows is None:
        return {"best": None}
    return {
        "best": figures.parts_curves(rows, "The best setting"),
        "best_n": len(rows),
        **of_recipe(cnn_train.Config(**cnn_sweep.SETTINGS[BEST])),
        "classes": to_print(figures.per_class(rows), SMALL),
        **of_mistakes(rows),
    }


def of_recipe(config: cnn_train.Config) -> dict:
    """Return the options of the best setting as values."""
    return {
        "best_epochs": config.epochs,
        "best_batch": config.batch_size,
        "best_smoothing": config.label_smoothing,
        "best_rate": config.learning_rate,
        "best_crop": config.crop,
        "best_small": config.small_size,
        "best_small_part": config.small_fraction,
    }


def of_mistakes(rows: Sequence[dict]) -> dict:
    """Return the confusion matrix, a mean over seeds, and the most confused pairs of classes."""
    counts = np.mean([row["test"]["confusion"] for row in rows], axis=0)
    names, mistakes = rows[0]["test"]["classes"], counts.sum() - np.trace(counts)
    both = counts + counts.T
    pairs = [(both[i, j], names[i], names[j]) for i in range(len(names)) for j in range(i)]
    first, second, *_ = sorted(pairs, reverse=True)
    in_whole = counts.round().astype(int)
    return {
        "confusion": to_print(figures.confusion_matrix(in_whole, names), SMALL),
        "mistakes": mistakes,
        "first_share": first[0] / mistakes,
        **dict(zip(("first_n", "first_a", "first_b"), first, strict=True)),
        **dict(zip(("second_n", "second_a", "second_b"), second, strict=True)),
    }


def of_final(found: dict | None) -> dict:
    """Return the accuracy of the preset `vgg-long` of the reduced VGG."""
    rows = [row for row in (found or {"rows": []})["rows"] if row["setting"] == "vgg vgg-long"]
    if not rows:
        return {"final": None}
    return {
        "final": spread([cifar10_figures.final(row) for row in rows]),
        "final_single": spread([row["test"]["accuracy"] for row in rows]),
        "final_n": len(rows),
        "final_epochs": cnn_train.PRESETS["vgg-long"].epochs,
    }


def of_course(found: dict | None) -> dict:
    """Return the best result without methods that go beyond the course; None of a single seed."""
    rows = [row for row in (found or {"rows": []})["rows"] if row["setting"] == COURSE]
    if len(rows) < 2:
        return {"course_accuracy": None}
    return {
        "course_accuracy": spread(accuracies(rows)),
        "course_epochs": epochs(COURSE, rows),
        "course_n": len(rows),
    }
