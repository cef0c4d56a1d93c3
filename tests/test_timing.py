"""The harness of the benchmarks: who is timed when, with what, and which way a ratio points."""

import itertools
import json
import os
import platform
import time

import numpy as np
import pytest
import torch

from benchmarks import cnn, mlp, products, rnn, summary, timing, toolbox
from purenets import random
from purenets.core.report import plots
from purenets.core.report.tables import to_markdown
from tests.surroundings import surroundings

KEY = random.key(7)


class Clock:
    """A clock that stands still but for what the contestants take."""

    def __init__(self, monkeypatch):
        self.now, self.turns = 0.0, []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def contestant(self, name: str, seconds):
        """Return a call that takes the seconds, or the next of several."""
        durations = itertools.cycle(np.atleast_1d(seconds))

        def call():
            self.turns.append(name)
            self.now += next(durations)

        return call


# --- turns ---------------------------------------------------------------------------------------


def test_milliseconds_are_those_of_one_call(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"a": clock.contestant("a", 0.002), "b": clock.contestant("b", 3.0)}
    times = timing.in_turns(calls, rounds=4, seconds=0.05, key=KEY)
    np.testing.assert_allclose(times["a"], [2.0] * 4)
    np.testing.assert_allclose(times["b"], [3000.0] * 4)
    # 2 to warm up, 1 to see how many fit into a turn, and the turns: 25 calls of 2 ms, 1 of 3 s
    assert (clock.turns.count("a"), clock.turns.count("b")) == (3 + 4 * 25, 3 + 4)


def order_of(clock: Clock, names: str, rounds: int, key) -> list[str]:
    """Return the contestants of each round in the order of their turns."""
    calls = {name: clock.contestant(name, 1.0) for name in names}
    timing.in_turns(calls, rounds, seconds=1.0, key=key)
    turns = "".join(clock.turns[3 * len(names) :])
    clock.turns.clear()
    return [turns[i : i + len(names)] for i in range(0, len(turns), len(names))]


def test_contestants_are_interleaved_in_the_order_of_a_drawn_key(monkeypatch):
    clock, names = Clock(monkeypatch), "abcd"
    rounds = order_of(clock, names, 40, KEY)
    assert len(rounds) == 40
    assert all(sorted(turns) == list(names) for turns in rounds)  # each has its turn in each round
    for i, turns in enumerate(rounds):
        order = random.permutation(random.fold_in(KEY, i), 4)
        assert turns == "".join(names[j] for j in order)
    first = [turns[0] for turns in rounds]
    assert min(map(first.count, names)) > 4  # nobody always begins
    assert len({turns[i : i + 2] for turns in rounds for i in range(3)}) == 12  # every neighbor
    assert order_of(clock, names, 40, KEY) == rounds
    assert order_of(clock, names, 40, random.key(8)) != rounds
    assert order_of(clock, names, 40, None) == order_of(clock, names, 40, random.key(0))


# --- equal threads and malloc --------------------------------------------------------------------


def test_who_changes_the_threads_of_others_is_named():
    threads = torch.get_num_threads()
    calls = {"a": lambda: None, "greedy": lambda: torch.set_num_threads(threads + 1)}
    try:
        with pytest.raises(RuntimeError, match=rf"greedy: leaves {threads + 1} threads to others"):
            timing.in_turns(calls, rounds=2, seconds=0.0)
    finally:
        torch.set_num_threads(threads)


def test_contestants_in_processes_have_equal_threads_and_the_malloc_that_is_asked_for(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # of the process that measures
    before, environment = torch.get_num_threads(), dict(os.environ)
    torch.set_num_threads(3)
    try:
        asked = (True, False)
        calls = [timing.apart(surroundings, memory_reused=reused) for reused in asked]
        found = [call() for call in calls]
    finally:
        torch.set_num_threads(before)
    assert [threads for threads, _, _ in found] == [3, 3]
    assert [pages for _, pages, _ in found] == ["1", None]
    assert dict(os.environ) == environment
    if platform.libc_ver()[0] == "glibc" and found[0][2] is not None:
        assert [maps for _, _, maps in found] == [False, True]


# --- ratios --------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_rounds_and_below_1_where_the_first_is_faster():
    a, b = np.array([1.0, 1.0, 9.0, 1.0, 1.0]), np.array([2.0, 4.0, 3.0, 10.0, 5.0])
    found = timing.ratio(a, b)  # a / b: 0.5, 0.25, 3, 0.1, 0.2
    assert found["median"] == pytest.approx(0.25)
    assert found["quartiles"] == pytest.approx([0.2, 0.5])
    assert timing.ratio(b, a)["median"] == pytest.approx(4.0)
    assert timing.with_quartiles(found) == "0.25 (0.20 to 0.50)"


def test_a_small_ratio_has_three_decimals():
    found = {"median": 0.0131, "quartiles": [0.0125, 0.0139]}
    assert timing.with_quartiles(found) == "0.013 (0.013 to 0.014)"


def test_a_time_is_the_median_of_the_rounds():
    assert timing.medians({"a": np.array([1.0, 100.0, 2.0])}) == {"a": 2.0}


def half_the_time(ours):
    """Return an `in_turns` in which `ours(name)` take 1 ms, and all others 2 ms."""

    def in_turns(contestants, rounds, *arguments, **options):
        return {name: np.full(rounds, 1.0 if ours(name) else 2.0) for name in contestants}

    return in_turns


def medians_of(found: dict) -> dict[str, float]:
    return {name: ratio["median"] for name, ratio in found.items()}


def test_ratios_of_the_mlp_are_ours_to_the_peer(monkeypatch):
    monkeypatch.setattr(mlp, "in_turns", half_the_time(lambda name: name.startswith("ours")))
    monkeypatch.setattr(mlp, "assert_same_work", lambda nets, sizes: None)
    nets = {name: lambda: None for name in ("ours a", "ours b", "peer c")}
    ours, peers = {n: nets[n] for n in ("ours a", "ours b")}, {"peer c": nets["peer c"]}
    found = mlp.measure(ours, peers, 5, mlp.TINY, {"peer d": lambda: None})
    expected = {f"ours {a} / peer {b}": 0.5 for a in "ab" for b in "cd"}
    assert medians_of(found["ratio"]) == expected
    assert found["ms"] == {"ours a": 1.0, "ours b": 1.0, "peer c": 2.0, "peer d": 2.0}


def test_steps_of_a_scan_are_counted_one_by_one(monkeypatch):
    monkeypatch.setattr(mlp, "in_turns", half_the_time(lambda name: True))
    monkeypatch.setattr(mlp, "assert_same_work", lambda nets, sizes: None)
    scan, one = lambda: None, lambda: None
    scan.k = 100
    found = mlp.measure({"scan": scan}, {"one": one}, 5, mlp.TINY)
    assert medians_of(found["ratio"]) == {"scan / one": pytest.approx(0.01)}


def test_ratios_of_the_rnn_are_ours_to_the_peer(monkeypatch):
    ours = half_the_time(lambda name: "loop" in name or "fused" in name)
    monkeypatch.setattr(rnn, "in_turns", ours)
    found = medians_of(rnn.one_step(5, 4)["ratio"])
    assert {"loop, jit / nn.RNN", "fused, jit / nn.RNN"} <= set(found)
    assert set(found.values()) == {0.5}
    together = half_the_time(lambda name: name.startswith("ensemble"))
    monkeypatch.setattr(rnn, "in_turns", together)
    found = medians_of(rnn.members_together(5, 4)["ratio"])
    assert all(name.startswith("ensemble, ") for name in found)
    assert set(found.values()) == {1 / (2 * rnn.MEMBERS)}


def test_ratios_of_the_cnn_are_ours_to_the_peer(monkeypatch):
    found = {}
    monkeypatch.setattr(cnn, "in_turns", half_the_time(lambda name: name in cnn.OURS))
    monkeypatch.setattr(cnn, "apart", lambda *arguments, **options: None)
    monkeypatch.setattr(cnn, "assert_same_work", lambda calls: None)
    monkeypatch.setattr(cnn, "write", lambda path, content, *tables: found.update(content))
    cnn.main(cnn.Config())
    ratios = medians_of(found["ratio"])
    assert len(ratios) == len(cnn.OURS) * len(cnn.PEERS)
    assert all(name.startswith("ours") and " / torch.nn" in name for name in ratios)
    assert set(ratios.values()) == {0.5}


def test_ratios_of_the_toolbox_are_ours_to_the_peer(monkeypatch):
    monkeypatch.setattr(toolbox, "in_turns", half_the_time(lambda name: name == "ours"))
    found = toolbox.section({"ours": None, "peer a": None, "peer b": None}, 5)
    assert medians_of(found["ratio"]) == {"ours / peer a": 0.5, "ours / peer b": 0.5}
    assert found["ms"] == {"ours": 1.0, "peer a": 2.0, "peer b": 2.0}


def test_the_ratio_of_products_is_ours_to_torchs(monkeypatch):
    monkeypatch.setattr(products, "in_turns", half_the_time(lambda name: name == "oneDNN"))
    monkeypatch.setattr(products.onednn, "onednn_matmul", torch.mm)
    threads = torch.get_num_threads()
    found = products.one((2, 3, 4), threads, 5)
    assert found["ratio"]["median"] == 0.5
    assert found["gigaflops"]["oneDNN"] == 2 * found["gigaflops"]["torch"]
    # forward, and the gradients by input and weights: 2 m k n each
    assert found["gigaflops"]["oneDNN"] == pytest.approx(3 * 2 * 2 * 3 * 4 / 1e-3 / 1e9)


# --- the summary ---------------------------------------------------------------------------------


def test_a_bar_is_of_ours_to_the_fastest_peer(tmp_path, monkeypatch):
    bar = summary.Bar("w", "ours", ("slow", "fast", "absent"), 0.5, "toolbox", ("part",))
    monkeypatch.setattr(summary, "BARS", [bar])
    ratios = {
        f"ours / {peer}": {"median": value, "quartiles": [value, value]}
        for peer, value in (("slow", 0.25), ("fast", 0.75))
    }
    part = {"ms": {"ours": 3.0, "slow": 12.0, "fast": 4.0}, "ratio": ratios, "n": 7}
    content = {"command": "c", "n": 3, "machine": "m", "git_commit": "g", "part": part}
    (tmp_path / "benchmarks_toolbox.json").write_text(json.dumps(content))
    (row,) = summary.found(tmp_path)
    assert (row["peer"], row["median"], row["n"]) == ("fast", 0.75, 7)
    assert "| fast | 0.75 (0.75 to 0.75) | 0.5 (missed) | 7 |" in to_markdown(summary.table([row]))


def test_every_bar_names_contestants_that_there_are(monkeypatch):
    names = {"cnn": {*cnn.OURS, *cnn.PEERS}}
    for bar in summary.BARS:
        assert bar.at_most > 0
        if bar.file in names:
            assert {bar.ours, *bar.peers} <= names[bar.file]


def test_a_bar_is_missed_above_it_and_met_below(tmp_path):
    row = {"work": "w", "ours": "o", "peer": "p", "at_most": 0.5, "n": 3, "quartiles": [0.1, 0.9]}
    rows = [row | {"median": median} for median in (0.4, 0.5, 0.6)]
    assert [cells[4] for cells in summary.table(rows).rows[1:]] == ["0.5", "0.5", "0.5 (missed)"]
    axis = summary.draw(rows).axes[0]
    colors = [line.get_color() for line in axis.lines if line.get_marker() in ("o", "D")]
    assert colors == [plots.COLORS[3], plots.COLORS[0], plots.COLORS[0]]  # drawn from below
