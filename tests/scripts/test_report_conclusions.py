"""What the report concludes depends on the results: each sentence has data that it does not fit."""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from scripts.report import (
    assemble,
    cifar10,
    conclusion,
    part1,
    part2,
    part3,
    part3_memory,
    words,
)
from scripts.shared.comparison import Difference

RESULTS = Path(__file__).parents[2] / "results"


def found(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def lengths_cell(T: int, *by_evaluation: list[float]) -> dict:
    """Return a cell of the sweep over lengths with the accuracies of its seeds at evaluations."""
    seeds = list(range(len(by_evaluation[0])))
    history = [
        {"step": 1000 * i} | {f"test_accuracy_{seed}": own[seed] for seed in seeds}
        for i, own in enumerate(by_evaluation)
    ]
    accuracy = {str(T): {"by_seed": by_evaluation[-1]}}
    return {"T": T, "seeds": seeds, "history": history, "accuracy": accuracy}


def test_seeds_are_far_apart_from_the_length_on_after_which_none_are_close():
    cells = [
        lengths_cell(5, [0.1, 0.1], [1.0, 0.2]),
        lengths_cell(6, [0.1, 0.1], [1.0, 0.9]),
        lengths_cell(8, [0.4, 0.3], [1.0, 0.1]),
    ]
    values = part3.of_range(cells)
    assert values["apart"] is True and values["apart_T"] == 8
    assert (values["apart_lowest"], values["apart_highest"]) == ("10.0%", "100.0%")
    assert (values["lowest_best"], values["lowest_best_T"]) == ("20.0%", 5)
    assert values["above_chance"] is True
    close = part3.of_range(cells[:2])
    assert close["apart"] is False and close["above_chance"] is False
    at_chance = part3.of_range([lengths_cell(8, [0.1, 0.05], [1.0, 0.1])])
    assert at_chance["apart"] is True and at_chance["above_chance"] is False


def test_every_length_of_which_less_than_half_was_drawn_is_listed():
    cells = found("rnn_lengths")["cells"]
    draws = cells[0]["steps"] * 128
    seen = {cell["T"]: 1 - (1 - 10.0 ** -((cell["T"] + 1) // 2)) ** draws for cell in cells}
    text = part3.above_seen(cells, seen)
    for cell in cells:
        best = max(cell["accuracy"][str(cell["T"])]["by_seed"])
        assert (f"{best:.2%} at T = {cell['T']} (" in text) == (seen[cell["T"]] < 0.5)


def test_a_setting_below_in_every_seed_is_not_called_level():
    def rows(*accuracies):
        return [{"seed": i, "test": {"accuracy": a}} for i, a in enumerate(accuracies)]

    settings = {"nesterov 1e-2": rows(0.8, 0.78, 0.77), "nesterov 1e-1": rows(0.62, 0.66, 0.42)}
    assert not part2.compared(*settings.values()).is_clear  # the deviation is large
    assert part2.every_seed_is_lower(settings["nesterov 1e-1"], settings["nesterov 1e-2"])
    assert not part2.every_seed_is_lower(rows(0.775), settings["nesterov 1e-2"])


def test_a_setting_is_chosen_by_validation_and_never_paired(monkeypatch):
    def rows(valid, test):
        return [
            {"seed": i, "test": {"accuracy": t}, "history": [{"valid_accuracy": v}]}
            for i, (v, t) in enumerate(zip(valid, test, strict=True))
        ]

    a, b = rows([0.8, 0.82], [0.7, 0.72]), rows([0.7, 0.72], [0.9, 0.92])
    many = {"adam 1e-3": a, "rmsprop 1e-3": b}
    monkeypatch.setattr(part2.figures, "settings_curves", lambda *_, **__: None)
    values = part2.of_optimizers(many)
    assert (values["chosen"], values["chosen_accuracy"]) == ("adam 1e-3", "71.00 ± 1.41")
    assert (values["last"], values["last_valid"]) == ("rmsprop 1e-3", "71.00 ± 1.41")
    assert values["comparisons"] == 1 and values["from_adam"] is None
    assert part2.compared(b, a).points() == "+20.00 ± 1.41"  # seed by seed the error would be 0


def test_a_network_overfits_only_where_training_is_clearly_above_the_test():
    def rows(training, test):
        return [
            {
                "test": {"accuracy": t, "loss": 0.5},
                "history": [{"step": 5}, {"step": 10, "accuracy": a, "loss": 1.0}],
            }
            for a, t in zip(training, test, strict=True)
        ]

    values = cifar10.of_test(rows([0.9, 0.91, 0.92], [0.75, 0.76, 0.77]))
    assert (values["test_gap"], values["overfits"]) == ("+15.00 ± 0.00", True)
    assert (values["loss_above"], values["fit_steps"]) == (True, 5)
    assert cifar10.of_test(rows([0.7, 0.8], [0.75, 0.76]))["overfits"] is False
    (mlp,) = cifar10.headline(
        [r for r in found("part1_cifar10")["rows"] if "mlp" in r["setting"]]
    ).values()
    assert cifar10.of_test(mlp)["overfits"] is True


def test_only_differences_whose_interval_excludes_0_are_called_clear():
    changes = {"far": Difference(-0.1, 0.01, (3, 3), 2), "near": Difference(0.01, 0.01, (3, 3), 2)}
    assert part2.clear(changes) == "-10.00 ± 1.00 (far)"
    assert part2.clear({"near": changes["near"]}) is None


def test_what_was_lost_is_clear_only_at_lengths_where_all_seeds_lose():
    lost = lengths_cell(20, [0.1, 0.1], [0.9, 0.8], [0.2, 0.1])
    kept = lengths_cell(5, [0.1, 0.1], [1.0, 1.0], [1.0, 0.8])
    values = part3.of_lost([kept, lost])
    assert values["lost"].startswith("+10.00 ± 10.00 at T = 5, +70.00 ± 0.00 at T = 20")
    assert values["lost_clear"] == "T = 20"
    assert part3.of_lost([kept])["lost_clear"] is None


def test_latches_remember_as_far_as_all_their_seeds_do():
    lengths = {"20": [1.0, 1.0], "500": [1.0, 1.0], "1000": [1.0, 0.9]}
    accuracy = {length: {"by_seed": values} for length, values in lengths.items()}
    cell = {"setting": "latches", "T": 20, "seeds": [0, 1], "accuracy": accuracy}
    command = "python scripts/palindrome_sweep.py --settings latches --eval_size 3000"
    values = conclusion.of_latches({"command": command, "cells": [cell]})
    assert (values["latches_T"], values["latches_drawn"]) == (500, 3000)
    elsewhere = {"command": command, "cells": [cell | {"T": 500}]}
    assert conclusion.of_latches(elsewhere)["latches_T"] is None


def test_the_limit_of_memory_is_not_blamed_on_the_training_alone():
    values = conclusion.of_numbers(found("rnn_memory_why"))
    (cell,) = (c for c in found("rnn_memory_why")["cells"] if c["setting"] == "latches-scalar")
    accuracy = cell["accuracy"]["1000"]["by_seed"]
    assert (values["numbers_T"], values["numbers_best"]) == (1000, max(accuracy))
    assert values["numbers_failed"] == words.in_words(sum(value < 0.5 for value in accuracy))
    assert conclusion.of_numbers(None) == {"numbers_T": None}
    sizes = {name: conclusion.parameters(name) for name in ("default", "latches")}
    assert sizes == {"default": 17_930, "latches": 19_082}
    for path in ("scripts/report/text/conclusion.md", "notebooks/part3_rnn.ipynb"):
        assert "not of the network" not in (RESULTS.parent / path).read_text()


def held_out_cell(T: int, halves: int, accuracy: float) -> dict:
    return {"T": T, "halves": halves, "held_out": [accuracy, accuracy]}


def test_the_number_of_halves_is_concluded_from_only_if_it_is_the_same_at_every_length():
    cells = [held_out_cell(T, halves, halves / 100) for T in (6, 10) for halves in (30, 100)]
    same = part3.of_enough(cells)
    assert same["same_enough"] is True
    assert (same["enough"], same["too_few"]) == (100, 30)
    assert same["enough_shares"] == "10.0% of all at T = 6 and 0.1% of all at T = 10"
    other = part3.of_enough([*cells[:3], held_out_cell(10, 100, 0.5)])
    assert other["same_enough"] is False and other["enough_otherwise"] is True
    assert other["enough_each"] == "100 at T = 6 and more than these at T = 10"


def far(gain1: list[float], others: float) -> dict:
    names = ("latches", "latches-gain1.5", "latches-gain3")
    return {"latches-gain1": gain1} | {name: [others, 1.0] for name in names}


def test_the_origin_is_concluded_from_only_if_the_factor_decides():
    values = part3_memory.of_gains(far([0.2, 1.0, 0.1], 1.0))
    assert values["unstable"] is True and values["gain1_failed"] == "two"
    assert values["gain1_failures"] == "10.0% and 20.0%"
    assert values["gains"] == "1.5, 2 and 3"
    assert part3_memory.of_gains(far([1.0, 1.0], 1.0))["stable"] is True
    assert part3_memory.of_gains(far([0.2, 1.0], 0.9))["stable"] is True


def onehot(at_50: list[float]) -> dict:
    """Return the default network with one-hot digits, by its accuracy at T = 50."""
    return {"T": 20, "accuracy": {"50": {"by_seed": at_50}, "20": {"by_seed": [0.0, 0.5]}}}


def test_seeds_far_below_chance_are_counted():
    values = part3_memory.of_onehot(onehot([0.0, 0.09]))
    assert (values["below_chance"], values["below_highest"]) == ("one", "0.0%")
    assert (values["below_own"], values["onehot_highest"]) == ("0.0%", "9.0%")
    values = part3_memory.of_onehot(onehot([0.01, 0.02]))
    assert (values["below_chance"], values["below_highest"]) == ("two", "2.0%")
    assert values["below_own"] == "0.0% to 50.0%"
    assert part3_memory.of_onehot(onehot([0.1, 0.5]))["below_chance"] is None


def test_twice_an_orthogonal_matrix_is_at_chance_and_seeds_of_the_default_below_it():
    cells = {cell["setting"]: cell["accuracy"] for cell in found("rnn_memory_why")["cells"]}
    values = part3_memory.of_memory(found("rnn_memory_why"))
    rotation = cells["latches-orthogonal"]["1000"]["by_seed"]
    assert values["rotation"].split(" ±")[0] == f"{100 * statistics.mean(rotation):.1f}"
    assert statistics.mean(rotation) == pytest.approx(0.1, abs=0.01)
    default = cells["onehot"]["1000"]["by_seed"]
    assert values["below_chance"] == words.in_words(sum(value < 0.05 for value in default))
    scalar = cells["latches-scalar"]["1000"]["by_seed"]
    assert values["scalar_failed"] == words.in_words(sum(value < 0.5 for value in scalar))


def states(before: float, after: float, radius: float) -> dict:
    """Return a default network of two seeds by what its gradient and its radius are."""
    both = {"before": before, "after": after}
    return {"T": 30} | {
        when: {"gradients": 2 * [[share, 1.0]], "radius": [radius, radius]}
        for when, share in both.items()
    }


def test_a_radius_is_not_enough_only_where_the_gradient_does_not_clearly_grow():
    values = part3_memory.of_reach([states(2.2e-8, 9.8e-10, 3.6)])
    assert values["radius_not_enough"] is True
    assert values["reached"] == "9.8 \u00d7 10\u207b\u00b9\u2070 at T = 30"
    assert part3_memory.of_reach([states(2.2e-8, 1.0, 3.6)])["radius_not_enough"] is False
    assert part3_memory.of_reach([states(2.2e-8, 9.8e-10, 0.9)])["radius_not_enough"] is False
    apart = states(1e-8, 1e-8, 3.6)
    apart["after"]["gradients"] = [[1e-9, 1.0], [1e-1, 1.0]]  # mean of the powers: +3, not clear
    values = part3_memory.of_reach([apart])
    assert values["radius_not_enough"] is True and values["reach_decades"] == "+3.0 ± 4.0"


def test_points_are_nearest_to_the_mean_of_the_others_of_their_digit():
    digits = np.array([0, 0, 1, 1])
    apart = np.array([[0, 0], [0, 1], [9, 0], [9, 1]], dtype=float)
    assert part3_memory.nearest_share(apart, digits) == 1
    assert part3_memory.nearest_share(apart[[0, 2, 1, 3]], digits) == 0


def test_a_longer_training_of_the_default_says_that_it_is_slower():
    own = np.array([0.2, 0.3])
    longer = lengths_cell(part3_memory.HARD, [0.1, 0.1], [0.9, 0.5], [0.2, 0.1])
    assert part3_memory.is_slower(own, [longer]) is True
    assert (
        part3_memory.is_slower(own, [lengths_cell(part3_memory.HARD, [0.1, 0.1], [0.2, 0.2])])
        is False
    )
    assert part3_memory.is_slower(own, []) is False


def test_ingredients_are_those_of_the_settings_in_percent():
    cells = found("rnn_settings")["cells"]
    table = part3_memory.ingredients(cells)
    assert len(table.rows) == 1 + len(cells) / 2
    own = {(c["setting"], c["T"]): c["accuracy"][str(c["T"])]["by_seed"] for c in cells}
    (row,) = (r for r in table.rows if r[:4] == ["numbers", "orthogonal", "frozen", "10"])
    for cell, T in zip(row[4:], (10, 20), strict=True):
        mean = 100 * statistics.mean(own["scalar-orthogonal-frozen", T])
        assert cell.split(" ± ")[0] == f"{mean:.1f}"


def vgg(seed: int, accuracies: list[float]) -> dict:
    history = [
        {"step": 500 * i, "accuracy": 0.9, "valid_accuracy": value}
        for i, value in enumerate(accuracies)
    ]
    return {"seed": seed, "history": history}


def test_validation_accuracy_moves_up_or_down_in_the_second_half():
    rows = [vgg(0, [0.1, 0.5, 0.7, 0.6, 0.8]), vgg(1, [0.1, 0.5, 0.7, 0.6, 0.8])]
    assert part2.moves(rows[0]) == pytest.approx([0.1, 0.2])
    assert part2.wobble(rows[:1]).points() == "+15.00"
    assert part2.wobble(rows).points() == "+15.00 ± 0.00"


def run(setting: str, seed: int, single: float, **views) -> dict:
    test = {
        "accuracy": single,
        "loss": 0.5,
        "classes": ["a", "b"],
        "confusion": [[1, 0], [0, 1]],
    } | views
    history = [{"step": 0}, {"step": 10, "accuracy": 0.5, "loss": 1.0}]
    own = {"setting": setting, "seed": seed, "test": test, "history": history}
    return own | {"training_seconds": 60.0, "command": "python a.py --threads 2"}


def test_single_images_come_first_and_views_in_parentheses():
    rows = [run("cnn 94", seed, 0.9, views="shift", views_accuracy=0.95) for seed in (0, 1)]
    reached = cifar10.reached(rows)
    assert (reached["single"], reached["accuracy"]) == ("90.00 ± 0.00", "95.00 ± 0.00")
    assert assemble.over_views(rows) == "; 95.00 ± 0.00% over several views"
    without = [run("cnn 94", 0, 0.9)]
    assert assemble.over_views(without) == ""
    assert cifar10.of_headline(without)["from_views"] is None


def test_views_of_unsure_images_only_are_called_so():
    assert cifar10.viewed({"views": "shift"}) == "each test image"
    assert "a probability of 60% or more" in cifar10.viewed({"views_below": 0.6})


def test_the_limit_of_a_noise_is_compared_with_the_accuracy():
    limit = part1.best_possible("moons", 0.3)
    assert part1.above_limit([limit - 0.02, limit - 0.01], 0.3) == "-1.50 ± 0.50"
    rows = found("part1_noise")["rows"]
    both = [
        [
            r["test_accuracy"]
            for r in rows
            if (r["backend"], r["case"]["noise"], r["case"]["optimizer"]) == (which, 0.3, "adam")
        ]
        for which in ("torch", "numpy")
    ]
    difference = 100 * (statistics.mean(both[0]) - statistics.mean(both[1]))
    assert part1.backends_apart(rows, 0.3).startswith(f"{difference:+.2f} ± ")


def test_falls_are_called_short_only_if_every_seed_is_perfect_again():
    up = lengths_cell(5, [1.0, 1.0], [0.8, 1.0], [1.0, 1.0], [1.0, 0.9])
    values = part3.of_falls([up])
    assert values["short_falls"] is True
    assert (values["falls_n"], values["falls_followed"]) == ("two", "one")
    assert (values["falls_lowest"], values["falls_at_the_end"]) == ("80.0%", "T = 5")
    down = lengths_cell(5, [1.0, 1.0], [0.8, 1.0], [0.9, 1.0])
    assert part3.of_falls([down])["short_falls"] is False
    assert part3.of_falls([lengths_cell(5, [0.1, 1.0], [0.8, 1.0])])["short_falls"] is None
    far_apart = lengths_cell(6, [1.0, 1.0], [0.1, 1.0])
    assert part3.of_falls([up, far_apart])["falls_n"] == "two"  # only lengths below it count


def test_the_fused_recurrence_has_the_gradients_of_the_loop_at_both_lengths():
    cells = found("rnn_lengths")["cells"]
    assert max(cell["T"] for cell in cells) == part3.LONGEST
    for T in (part3.LENGTH, part3.LONGEST):
        assert part3.fused_difference(part3.rnn.Config(input_length=T - 1)) < 1e-5


def test_every_network_of_the_memory_has_its_line_and_a_name():
    cells = {cell["setting"]: cell for cell in found("rnn_memory_why")["cells"]}
    panels = part3_memory.panels_of(cells)
    assert [cell["setting"] for own in panels.values() for cell in own.values()] == list(cells)
    names = [label for own in panels.values() for label in own]
    assert len(set(names)) == len(cells) and not set(names) & set(cells)
