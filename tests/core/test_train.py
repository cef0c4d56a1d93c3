"""The loop, with NumPy and torch nets: the same function drives both."""

import os
import signal

import numpy as np
import pytest

from purenets import (
    Diverged,
    Interrupted,
    data,
    evaluate,
    fit,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    tree,
)
from purenets.numpy_nets import MLP

TASK = data.load("moons", random.key(0), n=200)
MODEL = MLP(2, [8], 2)
OPTIMIZER = optim.adam(1e-2)
STEP = make_step(numpy_nets.grad_fn(MODEL), OPTIMIZER)
BATCHES = data.batches(TASK.train, 16, random.key(1))


def start():
    return init_state(MODEL, OPTIMIZER, random.key(2))


def same(a, b) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(tree.leaves(a._asdict()), tree.leaves(b._asdict()), strict=True)
    )


def test_fit_is_the_loop_written_out():
    state, history = fit(STEP, start(), BATCHES, steps=30, every=10)
    by_hand, losses = start(), []
    for i in range(30):
        by_hand, metrics = STEP(by_hand, BATCHES(i))
        losses.append(metrics["loss"])
    assert same(state, by_hand)
    assert [row["step"] for row in history] == [10, 20, 30]
    assert history[1]["loss"] == pytest.approx(np.mean(losses[10:20]), rel=1e-6)


def test_history_has_the_evaluations_and_a_last_row():
    def evaluation(state):
        metrics = numpy_nets.metrics_fn(MODEL)
        return {f"test_{k}": v for k, v in evaluate(metrics, state, TASK.test).items()}

    _, history = fit(STEP, start(), BATCHES, steps=25, every=10, evaluate=evaluation)
    assert [row["step"] for row in history] == [0, 10, 20, 25]
    assert history[-1]["test_loss"] < history[0]["test_loss"]


@pytest.mark.parametrize("cut", [1, 10, 17])
def test_stopped_and_resumed_equals_not_stopped(cut):
    saved = []

    def batches(i):
        if i == cut - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return BATCHES(i)

    with pytest.raises(Interrupted, match=f"after step {cut} of 30"):
        fit(STEP, start(), batches, steps=30, every=10, save=lambda *what: saved.append(what))
    state, history, sums = saved[-1]
    assert int(state.step) == cut
    resumed, rows = fit(STEP, state, BATCHES, steps=30, every=10, history=history, metric_sums=sums)
    whole, expected = fit(STEP, start(), BATCHES, steps=30, every=10)
    assert same(resumed, whole)
    assert rows == expected


def test_divergence_names_its_step():
    def batches(i):
        x, y = BATCHES(i)
        return (x * np.float32(np.nan) if i == 17 else x), y

    saved = []
    with pytest.raises(Diverged, match="loss is nan at step 18"):
        fit(STEP, start(), batches, steps=40, every=10, save=lambda *what: saved.append(int(what[0].step)))
    assert saved == [10]


def test_a_step_does_not_change_its_arguments():
    state, (x, y) = start(), BATCHES(0)
    for leaf in [*tree.leaves(state._asdict()), x, y]:
        if isinstance(leaf, np.ndarray):
            leaf.flags.writeable = False
    new, _ = STEP(state, (x, y))
    assert int(state.step) == 0
    assert int(new.step) == 1


def test_evaluate_in_parts_equals_evaluate_at_once():
    metrics, state = numpy_nets.metrics_fn(MODEL), start()
    whole = evaluate(metrics, state, TASK.test)
    parts = evaluate(metrics, state, TASK.test, batch_size=7)
    assert whole == pytest.approx(parts, rel=1e-5)


def test_a_net_that_draws_nothing_hashes_nothing(monkeypatch):
    state = start()
    monkeypatch.setattr(random, "philox", lambda *_: pytest.fail("a key was hashed"))
    STEP(state, TASK.train)
