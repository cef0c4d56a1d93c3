"""The training loop: functions that know nothing of networks, autograd or devices.

step  = make_step(grad_fn(model), optimizer)
state = init_state(model, optimizer, key)
state, history = fit(step, state, batches(train, 32, key), steps=1500)
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from purenets.core import random
from purenets.core.arrays import namespace
from purenets.core.base import (
    Batch,
    Buffers,
    GradFn,
    History,
    Metrics,
    Model,
    Optimizer,
    Params,
    Step,
    TrainState,
)
from purenets.core.optim.elementwise import advance_fn
from purenets.core.optim.extra_args import takes_extra_args
from purenets.core.optim.hyper import first_leaf
from purenets.core.signals import stop_requested
from purenets.core.vector_dict import with_vector


class Diverged(ArithmeticError):
    """The loss is no longer a finite number; the message names the step."""


class PeerLost(RuntimeError):
    """Another process of the run is gone, and this one cannot go on without it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, heard between two steps; `save` has been called."""


def init_state(model: Model, optimizer: Optimizer, key) -> TrainState:
    """The state before the first step, with params drawn by the model."""
    init_key, step_key = random.split(key)
    return train_state(*model.init(init_key), optimizer, step_key)


def train_state(params: Params, buffers: Buffers, optimizer: Optimizer, key) -> TrainState:
    """The state before the first step, with given params; key and step lie beside them."""
    leaf = first_leaf(params)
    xp = namespace(leaf)
    key = xp.asarray(key, dtype=xp.int64, device=leaf.device)
    step = xp.zeros((), dtype=xp.int64, device=leaf.device)
    params = with_vector(params)
    return TrainState(params, buffers, optimizer.init(params), key, step)


def make_step(grad_fn: GradFn, optimizer: Optimizer) -> Step:
    """Return the pure function `step(state, batch) -> (state, metrics)` of one update.

    An optimizer that takes `value` and `value_and_grad_fn` gets the loss of the step, and the function that
    evaluates the loss and its gradient at other params on the same batch with the same key.
    """
    takes_loss, advance = takes_extra_args(optimizer.update), advance_fn(optimizer)
    uses_key = getattr(grad_fn, "uses_key", True)  # unknown of a function that wraps another

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = random.fold_in(state.key, state.step) if uses_key else None
        params = with_vector(state.params)
        grads, (buffers, metrics) = grad_fn(params, state.buffers, batch, key)

        def value_and_grad_fn(params):  # torch.compile cannot trace annotations here
            grads, (_, metrics) = grad_fn(params, state.buffers, batch, key)
            return metrics["loss"], grads

        extra = {"value": metrics["loss"], "value_and_grad_fn": value_and_grad_fn} if takes_loss else {}
        params, opt_state = advance(grads, state.opt_state, params, **extra)
        return TrainState(params, buffers, opt_state, state.key, state.step + 1), metrics

    return step


def fit(
    step: Step,
    state: TrainState,
    batches: Callable[[int], Batch],
    *,
    steps: int,
    every: int = 0,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    save: Callable[[TrainState, History, Metrics], None] | None = None,
    history: Sequence[dict] = (),
    metric_sums: Metrics | None = None,
    label: str = "train",
) -> tuple[TrainState, History]:
    """Train from `state.step` to `steps`; returns the last state and a row for every `every` steps.

    A row holds the step, the mean of the step's metrics since the row before, and what `evaluate(state)`
    returns; the row of step 0 is only evaluated. Between rows nothing waits for the device.

    save(state, history, sums): called after each row, and on Ctrl-C or SIGTERM before `Interrupted` is
    raised. Pass its three values back in to go on as if nothing had happened.
    Raises Diverged once a metric is not finite; the step is found by going through the last steps again.
    """
    history, metric_sums, begin = list(history), dict(metric_sums or {}), int(state.step)
    good = state  # the state of the last row
    with (
        stop_requested() as stop,
        np.errstate(over="ignore", invalid="ignore"),  # the rows are checked instead
        tqdm(total=steps, initial=begin, desc=label, unit="step", disable=None) as bar,
    ):
        if begin == 0 and evaluate and not history:
            history.append({"step": 0, **evaluate(state)})
        for i in range(begin, steps):
            state, metrics = step(state, batches(i))
            metric_sums = (
                {name: metric_sums[name] + value for name, value in metrics.items()}
                if metric_sums
                else metrics
            )
            bar.update()
            done = i + 1
            if done == steps or (every and done % every == 0):
                since = history[-1]["step"] if history else 0
                row = {
                    "step": done,
                    **{name: float(total) / (done - since) for name, total in metric_sums.items()},
                }
                row |= evaluate(state) if evaluate else {}
                if not all(math.isfinite(value) for value in row.values()):
                    raise Diverged(_where_it_diverged(step, good, batches, done))
                history.append(row)
                good, metric_sums = state, {}
                bar.set_postfix({name: f"{row[name]:.4g}" for name in metrics}, refresh=False)
                if save:
                    save(state, history, metric_sums)
            if stop():
                if save and metric_sums:
                    save(state, history, metric_sums)
                raise Interrupted(f"stopped after step {done} of {steps}")
    return state, history


def evaluate(
    metrics: Callable[[Params, Buffers, Batch], Metrics], state: TrainState, data: Batch, batch_size: int = 0
) -> dict[str, float]:
    """The metrics of a state on all of `data`, as numbers, in evaluation mode; `batch_size` at a time."""
    x, y = data
    n = y.shape[0]
    size = batch_size or n
    totals: dict[str, float] = {}
    for begin in range(0, n, size):
        part = x[begin : begin + size], y[begin : begin + size]
        for name, value in metrics(state.params, state.buffers, part).items():
            totals[name] = totals.get(name, 0.0) + float(value) * part[1].shape[0]
    return {name: total / n for name, total in totals.items()}


def _where_it_diverged(step: Step, state: TrainState, batches, end: int) -> str:
    """Steps are pure, so the steps since the last row can be taken again, this time looking at each."""
    for i in range(int(state.step), end):
        state, metrics = step(state, batches(i))
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            return f"the loss is {loss} at step {i + 1}"
    return f"the evaluation after step {end} is not finite"
