"""The end of the report: what was found, each with its number, and all networks on CIFAR-10."""

import math
from collections.abc import Sequence

from purenets.core.architectures import rnn_shapes
from purenets.core.report.document import Section
from purenets.core.report.tables import Table, table_of
from scripts import palindrome_sweep
from scripts import train as rnn
from scripts.figures import cifar10 as cifar10_figures
from scripts.figures import rnn as rnn_figures
from scripts.report import cifar10, part1, part2, part3
from scripts.report.part3_memory import FAILED
from scripts.report.prose import sections
from scripts.report.results import in_powers, parsed
from scripts.report.words import in_words
from scripts.shared.comparison import Difference, unpaired
from scripts.shared.sweeps import MEAN_SD, grouped, spread

CHANCE = 0.1  # of ten digits
FAR = ("latches", 20)  # the network that remembers far beyond the length that it was trained at


def section(found: dict) -> Section | None:
    """Return the conclusion; None if `found` lacks the results of a part."""
    needed = ("part1_sets", "part1_cifar10", "part2_settings", "rnn_lengths", "rnn_memory")
    if not set(needed) <= set(found):
        return None
    rows = found["part1_cifar10"]["rows"]
    values = (
        of_perceptrons(found["part1_sets"]["rows"])
        | of_convolutions(found)
        | of_lengths(found["rnn_lengths"]["cells"])
        | of_latches(found["rnn_memory"])
        | of_numbers(found.get("rnn_memory_why"))
        | of_passes(grouped(found["part2_settings"]["rows"]))
        | {
            "networks": networks(rows, found["part2_settings"]["rows"], times(found)),
            "held_out": round(part2.training().valid_fraction * part2.TRAINING_IMAGES),
        }
    )
    (part,) = sections("conclusion", values)
    return part


def of_perceptrons(rows: Sequence[dict]) -> dict:
    """Return how far both perceptrons are apart after the training."""
    names = dict.fromkeys(row["case"]["dataset"] for row in rows)
    same = not any(part1.differs(part1.between_backends(rows, name)) for name in names)
    farthest = max(row["largest_difference"] for row in rows)
    return {"same": same, "n_sets": len(names), "farthest": in_powers(f"{farthest:.1e}")}


def of_convolutions(found: dict) -> dict:
    """Return what convolutions gain: the best network with them minus the best without."""
    best = [
        [cifar10_figures.final(row) for row in mine]
        for kind in ("cnn", "mlp")
        for mine in cifar10.headline(cifar10.of_kind(found, kind)).values()
    ]
    gain = unpaired(*best)
    return {
        "convolutions": gain.points() if gain.is_clear else None,
        "convolutions_n": of_n(gain),
    }


def of_n(change: Difference) -> str:
    """Return the number of seeds on both sides: one number if they are equal."""
    return " and ".join(map(str, dict.fromkeys(change.n)))


def of_passes(by_setting: dict) -> dict:
    """Return the gain of the reduced VGG from more epochs, and then from augmentation."""
    plain, augmented = part2.LADDER[1:3]
    if any(len(by_setting.get(name, ())) < 2 for name in (part2.ADAM, plain, augmented)):
        return {"passes": None}
    passes = part2.compared(by_setting[plain], by_setting[part2.ADAM])
    more = part2.compared(by_setting[augmented], by_setting[plain])
    if not (passes.is_clear and more.is_clear and passes.mean > more.mean > 0):
        return {"passes": None}
    return {
        "passes": passes.points(),
        "passes_n": of_n(passes),
        "augmentation": more.points(),
        "augmentation_n": of_n(more),
        "short_epochs": part2.epochs(part2.ADAM, by_setting[part2.ADAM]),
        "long_epochs": part2.epochs(plain, by_setting[plain]),
        "plain_gap": part2.gap(by_setting[plain]).points(),
        "augmented_gap": part2.gap(by_setting[augmented]).points(),
    }


def of_lengths(cells: Sequence[dict]) -> dict:
    """Return the accuracy of the RNN at the shortest and at the longest palindromes."""
    first, *_, last = sorted(cells, key=lambda cell: cell["T"])
    return {
        "short_T": first["T"],
        "short": spread(list(rnn_figures.at_own_length(first)), digits=1),
        "learned_T": part3.longest_learned(cells),
        "long_T": last["T"],
        "long": spread(list(rnn_figures.at_own_length(last)), digits=1),
        "rnn_n": len(first["seeds"]),
        "chance": CHANCE,
    }


def of_latches(found: dict) -> dict:
    """Return how far the latches remember; None if a seed of them is wrong there."""
    setting, T = FAR
    cells = [cell for cell in found["cells"] if (cell["setting"], cell["T"]) == FAR]
    worst = {
        int(length): min(values["by_seed"])
        for cell in cells
        for length, values in cell["accuracy"].items()
    }
    perfect = [length for length, accuracy in worst.items() if accuracy == 1]
    return {
        "latches_T": max(perfect, default=None),
        "latches_trained": T,
        "latches_n": len(cells[0]["seeds"]) if cells else 0,
        "latches_drawn": parsed(palindrome_sweep.Config, found).eval_size,
        "latches_gain": palindrome_sweep.SETTINGS[setting]["gain"],
        "latches_parameters": parameters(setting),
        "default_parameters": parameters("default"),
    }


def of_numbers(found: dict | None) -> dict:
    """Return how latches do that are fed digits as numbers; None unless some of them fail."""
    known = {cell["setting"]: cell for cell in found["cells"]} if found else {}
    if "latches-scalar" not in known:
        return {"numbers_T": None}
    far = {int(T): own["by_seed"] for T, own in known["latches-scalar"]["accuracy"].items()}
    values = far[max(far)]
    failed = sum(value < FAILED for value in values)
    return {
        "numbers_T": max(far) if failed else None,
        "numbers_failed": in_words(failed),
        "numbers_of": in_words(len(values)),
        "numbers_best": max(values),
        "numbers_scale": palindrome_sweep.SETTINGS["latches-scalar"]["input_scale"],
    }


def parameters(setting: str) -> int:
    """Return the number of parameters of the RNN in a setting."""
    config = rnn.Config(**palindrome_sweep.SETTINGS[setting])
    shapes = rnn_shapes(config.input_dim, config.num_hidden, config.num_classes)
    return sum(map(math.prod, shapes.values()))


def times(found: dict) -> dict[str, float]:
    """Return the training time of each setting in units of the public recipe, where known."""
    timed = found.get("benchmarks_cifar10")
    return cifar10_figures.times_in_a(found["part1_cifar10"]["rows"], timed) if timed else {}


def networks(rows: Sequence[dict], vgg: Sequence[dict], times: dict[str, float]) -> Table:
    """Return a row for each network and training on CIFAR-10.

    Args:
        rows: final trainings, on all training images.
        vgg: trainings of Part II, which hold some images out.
        times: of the final trainings.
    """
    header = (
        *("network", f"single images, % ({MEAN_SD})", f"over views, % ({MEAN_SD})"),
        *("time, A", "n"),
    )
    of_part2 = {name: own for name, own in grouped(list(vgg)).items() if name in part2.LADDER}
    lines = [
        line(f"{cifar10.TITLES['vgg']}, {name}", of_part2[name], None)
        for name in part2.LADDER
        if name in of_part2
    ]
    final = [
        line(cifar10.title_of(name), own, times.get(name))
        for name, own in grouped(list(rows)).items()
    ]
    return table_of(header, [*final, *lines])


def line(title: str, rows: Sequence[dict], time: float | None) -> tuple:
    """Return the row of a network."""
    tests = [row["test"] for row in rows]
    viewed = all("views_accuracy" in test for test in tests)
    return (
        title,
        spread([test["accuracy"] for test in tests]),
        spread([test["views_accuracy"] for test in tests]) if viewed else "",
        "" if time is None else f"{time:.2f}",
        len(rows),
    )
