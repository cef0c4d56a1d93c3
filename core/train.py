"""The training loop: functions that know nothing of networks, autograd or devices.

step  = make_step(grad_fn(model), optimizer)
state = init_state(model, optimizer, key)
state, history = fit(step, state, batches(train, 32, key), steps=1500)
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from tqdm import tqdm

from purenets.core import random, running_sums, tree
from purenets.core.arguments import (
    GRAD_FN,
    METRICS_FN,
    STEP,
    expect_call,
    expect_leaves,
    expect_models,
    expect_named,
    expect_optimizers,
    expect_states,
    explained,
    is_integer,
    shown,
    whole_only_of,
)
from purenets.core.arrays import kind_of, namespace, own_copy, plain
from purenets.core.base import (
    Array,
    Batch,
    Buffers,
    GradFn,
    History,
    Metrics,
    MetricsFn,
    Model,
    Optimizer,
    Params,
    Step,
    TrainState,
    UserError,
)
from purenets.core.batch import count_examples, map_arrays
from purenets.core.memory import expect_room_for
from purenets.core.optim.internals.elementwise import advance_fn
from purenets.core.optim.internals.extra_args import takes_extra_args
from purenets.core.optim.internals.hyper import first_leaf
from purenets.core.optim.internals.kinds import same_entries
from purenets.core.optim.internals.order import expect_descent
from purenets.core.optim.internals.precision import (
    ERRORS,
    expect_grads,
    expect_params,
    own_in_any_dtype,
)
from purenets.core.optim.internals.trial import expect_own_parts
from purenets.core.optim.state import check_opt_state
from purenets.core.serial import init_leaves
from purenets.core.signals import Interrupted, stop_requested
from purenets.core.vector_dict import with_vector
from purenets.core.writes import watched


class Diverged(ArithmeticError):
    """The loss is no longer a finite number; the message names the step."""


class PeerLost(RuntimeError):
    """Another process of the run is gone, and this one cannot go on without it."""


def init_state(model: Model, optimizer: Optimizer, key: Array, example: Any = None) -> TrainState:
    """Return the state before the first step, with params and buffers drawn by the model.

    The key is split: one half draws the params, the other one stays in the state, where each step
    derives its own key from it.

    Args:
        model: a network, such as `MLP(...)`.
        optimizer: its state for these params becomes a part of the training state.
        key: made by `random.key(seed)`; a NumPy array or a tensor.
        example: inputs of the model, (batch, ...); only lazily sized layers need them.

    Returns:
        A `TrainState` with `step` 0.

    Raises:
        UserError: an argument has the wrong type or value, or the network is too large for the
            memory.

    Example:
        >>> from purenets import init_state, optim, random
        >>> from purenets.numpy_nets import MLP
        >>> state = init_state(MLP(2, [20], 3), optim.adam(1e-3), random.key(0))
        >>> {name: leaf.shape for name, leaf in state.params.items()}
        {'fc1.weight': (20, 2), 'fc1.bias': (20,), 'fc2.weight': (3, 20), 'fc2.bias': (3,)}
        >>> int(state.step)
        0
    """
    expect_models("init_state", model=model)
    expect_optimizers("init_state", optimizer=optimizer)
    init_key, step_key = random.split(random.check_key(key))
    expect_room_for(model)
    return train_state(*init_leaves(model, init_key, example), optimizer, step_key)


def train_state(params: Params, buffers: Buffers, optimizer: Optimizer, key: Array) -> TrainState:
    """Return the state before the first step, with given params.

    Key and step are put on the device of the params. A `torch.nn.Parameter` is detached. To
    differentiate through a training by its first params, pass plain tensors.

    Args:
        params: a flat dict of arrays by name, as `model.init` returns it.
        buffers: arrays that are not trained, such as running statistics; {} if there are none.
        optimizer: its state for these params becomes a part of the training state.
        key: made by `random.key(seed)`; each step derives its own key from it.

    Returns:
        A `TrainState` with `step` 0, whose params and buffers have memory of their own.

    Raises:
        UserError: an argument has the wrong type or value; `optimizer.init` does not return a dict
            of arrays; a schedule starts at an invalid value; or an update of your own changes its
            arguments or does not return a pair. The message names it.

    Example:
        >>> import numpy as np
        >>> from purenets import optim, random, train_state
        >>> state = train_state({"w": np.ones(2)}, {}, optim.adam(1e-3), random.key(0))
        >>> state.params, int(state.step)
        ({'w': array([1., 1.])}, 0)
    """
    for name, part in (("params", params), ("buffers", buffers)):
        if not isinstance(part, dict):
            raise UserError(f"{name}: a {type(part).__name__}, needs a dict of arrays by name")
    expect_leaves("train_state", buffers=buffers)
    expect_optimizers("train_state", optimizer=optimizer)
    expect_params(params)
    params = {name: own_copy(plain(leaf)) for name, leaf in params.items()}
    buffers = tree.map(own_copy, buffers)
    leaf = first_leaf(params)
    xp = namespace(leaf)
    key = xp.asarray(random.check_key(key), dtype=xp.int64, device=leaf.device)
    step = xp.zeros((), dtype=xp.int64, device=leaf.device)
    params = with_vector(params)
    opt_state = own_in_any_dtype(optimizer).init(params)
    expect_leaves("train_state", opt_state=opt_state)
    expect_own_parts(optimizer, params)
    return TrainState(params, buffers, opt_state, key, step)


def make_step(grad_fn: GradFn, optimizer: Optimizer) -> Step:
    """Return the pure function `step(state, batch) -> (state, metrics)` of one update.

    The key of a step is `fold_in(state.key, state.step)`, so a step that is taken again gives the
    same bits. An optimizer whose `update` takes `value` and `value_and_grad_fn` (a line search, for
    example) gets the loss of the step, and the function that evaluates loss and gradient at other
    params, on the same batch with the same key.

    Args:
        grad_fn: `grad_fn(params, buffers, batch, key) -> (grads, (buffers, metrics))`, where "loss"
            is one of the metrics; `numpy_nets.grad_fn(model)` and `torch_nets.grad_fn(model)` make
            one.
        optimizer: turns the gradients into updates.

    Returns:
        The step. It changes none of its arguments.

    Raises:
        UserError: `grad_fn` is not a function, `optimizer` is not an optimizer, or its updates
            point uphill (a transform without a learning rate). The step raises one if the state
            belongs to another optimizer or other params, if `grad_fn` returns anything else or
            writes into its arguments, or if the buffers change their names, shapes or dtypes.

    Example:
        >>> import numpy as np
        >>> from purenets import make_step, optim, random, train_state
        >>> def grad_fn(params, buffers, batch, key):  # of the loss (w - x)^2 / 2
        ...     error = params["w"] - batch[0]
        ...     return {"w": error}, (buffers, {"loss": (error**2).sum() / 2})
        >>> optimizer = optim.sgd(0.5)
        >>> state = train_state({"w": np.zeros(1)}, {}, optimizer, random.key(0))
        >>> state, metrics = make_step(grad_fn, optimizer)(state, (4.0, None))
        >>> state.params["w"], float(metrics["loss"])
        (array([2.]), 8.0)
    """
    expect_call("make_step", GRAD_FN, grad_fn=grad_fn)
    expect_optimizers("make_step", optimizer=optimizer)
    expect_descent("make_step", optimizer=optimizer)
    optimizer = own_in_any_dtype(optimizer)
    takes_loss, advance = takes_extra_args(optimizer.update), advance_fn(optimizer)
    uses_key = getattr(grad_fn, "uses_key", True)  # unknown of a function that wraps another
    grad_fn = watched("make_step: grad_fn", grad_fn, ("params", "buffers", "batch", "key"))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if not hasattr(state, "opt_state"):
            expect_states("step", state=state)
        key = random.fold_in(state.key, state.step) if uses_key else None
        params = with_vector(state.params)
        result = grad_fn(params, state.buffers, batch, key)
        try:
            grads, (buffers, metrics) = result
        except (TypeError, ValueError):
            _refuse_result(result)
        if not (isinstance(grads, dict) and isinstance(metrics, dict)):
            _refuse_result(result)

        def value_and_grad_fn(params):  # torch.compile cannot trace annotations here
            grads, (_, metrics) = grad_fn(params, state.buffers, batch, key)
            return _loss_of(metrics), grads

        extra = (
            {"value": _loss_of(metrics), "value_and_grad_fn": value_and_grad_fn}
            if takes_loss
            else {}
        )
        try:
            params, opt_state = advance(grads, state.opt_state, params, **extra)
        except ERRORS:
            expect_grads(grads, params)
            check_opt_state(optimizer, params, state.opt_state)
            expect_own_parts(optimizer, params)
            raise
        if not isinstance(opt_state, dict) or not same_entries(opt_state, state.opt_state):
            expect_own_parts(optimizer, params)
            check_opt_state(optimizer, params, state.opt_state)
        if buffers is not state.buffers:
            _expect_buffers(buffers, state.buffers)
        return TrainState(params, buffers, opt_state, state.key, state.step + 1), metrics

    return step


def _expect_buffers(new: Buffers, old: Buffers) -> None:
    """Raise a UserError unless a step returns buffers of the names, shapes and dtypes that it got.

    A checkpoint with other buffers could not be restored: it is read into a state with those of
    `init`.
    """
    new, old = new or {}, old or {}
    if _have_same_leaves(new, old):
        return
    expect_leaves("make_step", buffers=new)
    new, old = tree.flatten(new), tree.flatten(old)
    right = "buffers keep the names, shapes and dtypes that init gives them"
    for name in [*old, *new]:
        if name not in old or name not in new:
            found = "no buffer" if name in old else "an extra buffer"
            raise UserError(f"make_step: the model returned {found} {name!r}; {right}")
        if not _have_same_leaves({name: new[name]}, {name: old[name]}):
            raise UserError(
                f"make_step: the model returned the buffer {name!r} as {shown(new[name])}, but got "
                f"{shown(old[name])}; {right}"
            )


def _have_same_leaves(a: dict, b: dict) -> bool:
    """Return True for flat dicts of arrays of the same names, shapes and dtypes."""
    if a.keys() != b.keys():
        return False
    for name, leaf in a.items():  # no generator: this is a part of every step
        other = b[name]
        if not hasattr(leaf, "dtype") or leaf.shape != other.shape or leaf.dtype != other.dtype:
            return False
    return True


def _loss_of(metrics: Metrics) -> Array:
    """Return the loss, for an optimizer that takes it; a UserError if there is none."""
    if metrics.get("loss") is None:
        names = ", ".join(map(str, metrics)) or "nothing"
        raise UserError(
            f"make_step: the optimizer needs the loss, grad_fn returned {names} as metrics; needs "
            "a number 'loss'"
        )
    return metrics["loss"]


def _refuse_result(result: Any) -> NoReturn:
    """Raise the UserError for what a gradient function must not return."""
    right = "(grads, (buffers, metrics)), where metrics is a dict with the 'loss'"
    raise UserError(f"make_step: grad_fn returned {_outline(result)}, needs {right}")


def _outline(value: Any, depth: int = 2) -> str:
    """Return the structure of a value for a message, as in "(Tensor, dict)"."""
    if not isinstance(value, tuple | list) or depth == 0:
        return type(value).__name__
    return f"({', '.join(_outline(part, depth - 1) for part in value)})"


@explained("fit(step, state, batches, steps=1000)")
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
    """Train from `state.step` to `steps`; return the last state and a row for every `every` steps.

    A row holds the step, the mean of each metric over the steps since the row before (or since this
    call began), and what `evaluate(state)` returns. The row of step 0 has an evaluation only.
    Between rows nothing waits for the device (`core/running_sums.py`).

    Args:
        step: the function of one update, as `make_step` returns it.
        state: where to begin; a trained one is trained further.
        batches: the function from the step, counted from 0, to its batch, as `data.batches` returns
            it.
        steps: the total to reach, not how many more: a state at step 300 with steps=600 takes 300.
        every: steps between two rows; 0 for none in between: only the row of the last step, and
            with `evaluate` that of step 0.
        evaluate: returns numbers by names that are neither "step" nor those of the step's metrics.
        save: `save(state, history, metric_sums)` is called after each row, and on Ctrl-C or SIGTERM
            before `Interrupted` is raised. Pass these three values back in to continue as if
            nothing had happened.
        history: the rows to continue.
        metric_sums: sums over the steps since the last row, as `save` got them.
        label: the text of the progress bar.

    Returns:
        The state after `steps` steps, and the rows: a list of dicts of numbers. A state that has
        taken `steps` steps already is returned as it is, with a warning if there is no history.

    Raises:
        Diverged: a metric of a row is not finite. The steps since the row before are taken again to
            find the first one that is not.
        Interrupted: Ctrl-C or SIGTERM arrived.
        UserError: an argument has the wrong type or value, the history has rows of later steps than
            the state, or `evaluate` returns a name that the row has already.

    Example:
        >>> from purenets import data, fit, init_state, make_step, optim, random
        >>> from purenets.numpy_nets import MLP, grad_fn
        >>> task = data.load("iris", random.key(0))
        >>> model, optimizer = MLP(4, [8], 3), optim.adam(0.01)
        >>> step = make_step(grad_fn(model), optimizer)
        >>> state = init_state(model, optimizer, random.key(1))
        >>> batches = data.batches(task.train, 16, random.key(2))
        >>> state, history = fit(step, state, batches, steps=200, every=100)
        >>> [row["step"] for row in history]
        [100, 200]
        >>> history[1]["loss"] < history[0]["loss"]
        True
    """
    _expect_arguments(step, state, batches, evaluate, save, metric_sums)
    begin, names = int(state.step), None
    history, every = _check_plan(steps, every, history, begin), int(every)
    if begin == steps > 0 and not history:  # a finished run that is resumed passes its history
        taken = f"fit: the state has taken {begin} steps already, steps={steps} takes none more"
        warnings.warn(taken, stacklevel=3)
    good, sums = state, running_sums.begin(metric_sums, history, begin)  # good: of the last row
    with (
        stop_requested() as stop,
        np.errstate(over="ignore", invalid="ignore"),  # the rows are checked instead
        tqdm(total=steps, initial=begin, desc=label, unit="step", disable=None) as bar,
    ):
        if begin == 0 and evaluate and not history:
            history.append(_row(0, {}, state, evaluate))
        for i in range(begin, steps):
            try:
                state, metrics = step(state, batches(i))
            except Interrupted as error:  # it was being compiled
                raise _stopped(i, steps, state, history, sums, save) from error
            if metrics.keys() != names:  # at the first step
                names = _checked_names(metrics, sums, history[-1] if history and i == 0 else {})
            sums = running_sums.add(sums, metrics)
            bar.update()
            done = i + 1
            if done == steps or (every and done % every == 0):
                row = _row(done, running_sums.means(sums, metrics, done), state, evaluate)
                if not all(map(math.isfinite, row.values())):
                    raise Diverged(_where_it_diverged(step, good, batches, row))
                history.append(row)
                good, sums = state, {running_sums.STEP: done}
                bar.set_postfix({name: f"{row[name]:.4g}" for name in metrics}, refresh=False)
                if save:
                    save(state, history, {})
            if stop():
                raise _stopped(done, steps, state, history, sums, save)
    return state, history


def _stopped(done: int, steps: int, state, history, sums, save) -> Interrupted:
    """Save what the last row has not saved; return the exception to raise."""
    if save and len(sums) > 1:
        save(state, history, sums)
    return Interrupted(f"stopped after step {done} of {steps}")


def _expect_arguments(step, state, batches, evaluate, save, metric_sums) -> None:
    """Raise a UserError that names the argument of `fit` that is wrong."""
    if not callable(batches):
        is_loader = hasattr(batches, "dataset") and hasattr(batches, "batch_size")
        right = (
            "torch_nets.from_loader(loader, key)"
            if is_loader
            else "data.batches(examples, 32, key)"
        )
        raise UserError(f"fit: batches is {shown(batches)}, needs a function, as {right} makes it")
    expect_call("fit", STEP, step=step)
    expect_call("fit", ("step",), batches=batches)
    if evaluate is not None:
        expect_call("fit", ("state",), evaluate=evaluate)
    if save is not None:
        expect_call("fit", ("state", "history", "metric_sums"), save=save)
    expect_named("fit", "sums", metric_sums={} if metric_sums is None else metric_sums)
    expect_states("fit", state=state)


def _checked_names(metrics: Metrics, sums: Metrics, evaluated: dict) -> set[str]:
    """Return the names of the metrics: those of the sums, and none that `evaluate` uses."""
    running_sums.check_names(sums, metrics)
    _expect_new_names(metrics, evaluated)
    return set(metrics)


def _check_plan(steps: int, every: int, history: Sequence[dict], begin: int) -> History:
    """Return the history; a UserError unless it ends at `begin` or before and the steps are
    numbers.
    """
    for name, value in (("steps", steps), ("every", every)):
        if not is_integer(value) or value < 0:
            raise UserError(f"{name}: {value!r}, needs an integer that is not negative")
    if not isinstance(history, list | tuple) or not all(isinstance(row, dict) for row in history):
        raise UserError(f"history: a {type(history).__name__}, needs a list of rows (dicts)")
    history = list(history)
    if steps < begin:
        raise UserError(
            f"steps: {steps}, but the state has already taken {begin}; steps is the total to reach"
        )
    last = max((row.get("step", math.inf) for row in history), default=0)
    if last == math.inf:
        raise UserError("history: a row without its 'step'")
    if last > begin:
        raise UserError(
            f"history: a row of step {last}, but the state has taken {begin} steps only"
        )
    return history


def _row(
    step: int, means: dict[str, float], state: TrainState, evaluate: Callable | None
) -> dict[str, float]:
    """Return a row: the step, the means of the training steps, and what `evaluate` returns."""
    found = evaluate(state) if evaluate else {}
    if not isinstance(found, dict):
        raise UserError(f"evaluate: returned a {type(found).__name__}, needs a dict of numbers")
    row = {"step": step, **means}
    _expect_new_names(found, row)
    return row | {name: _number(name, value) for name, value in found.items()}


def _number(name: str, value) -> float:
    if type(value) in (int, float):
        return value
    try:
        if hasattr(value, "dtype") and kind_of(value) == "c":
            raise TypeError("float() drops the imaginary part")
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = getattr(value, "shape", None)
        got = type(value).__name__ if shape is None else f"an array of shape {tuple(shape)}"
        raise UserError(f"evaluate: {name} is {got}, needs one number") from error


def _expect_new_names(found: dict, row: dict) -> None:
    """Raise a UserError that names what both `evaluate` and the training steps call the same."""
    twice = sorted(found.keys() & row.keys())
    if twice:
        names = ", ".join(twice)
        raise UserError(
            f"evaluate: returns {names}, which every row has already; try test_{twice[0]}"
        )


def evaluate(
    metrics: MetricsFn, state: TrainState, data: Batch, batch_size: int = 0
) -> dict[str, float]:
    """Return the metrics of a state on all of `data`, as numbers, in evaluation mode.

    Args:
        metrics: `metrics(params, buffers, batch) -> dict of scalars`, as `metrics_fn(model)`
            returns it; each a mean over the examples if `batch_size` is given.
        state: the params and buffers to evaluate.
        data: inputs (n, ...), or a tuple or dict of them, and targets (n, ...).
        batch_size: examples at a time, 0 for all at once. The metrics of the parts are averaged,
            weighted by the number of their examples.

    Returns:
        Each metric by its name, a float.

    Raises:
        UserError: there are no examples; `batch_size` is not a non-negative integer; or a batch
            size is given and a metric or the loss is not a mean over examples (`r2`, a sum, class
            weights, ignored targets). Mark a function of your own that is not:
            `f.mean_over_examples = False`.

    Example:
        >>> import numpy as np
        >>> from purenets import evaluate, optim, random, train_state
        >>> def metrics(params, buffers, batch):
        ...     x, y = batch
        ...     return {"error": np.abs(params["w"] * x - y).mean()}
        >>> state = train_state({"w": np.array([2.0])}, {}, optim.sgd(0.1), random.key(0))
        >>> x = np.array([1.0, 2.0, 3.0])
        >>> evaluate(metrics, state, (x, x), batch_size=2)  # means 1.5 of two examples, 3 of one
        {'error': 2.0}
    """
    expect_call("evaluate", METRICS_FN, metrics=metrics)
    expect_states("evaluate", state=state)
    n = count_examples(data, "evaluate")
    if not is_integer(batch_size) or batch_size < 0:
        raise UserError(
            f"batch_size: {batch_size!r}, needs a positive integer, or 0 for all at once"
        )
    size = min(int(batch_size) or n, n)
    whole_only = whole_only_of(metrics)
    if size < n and (names := whole_only(data[1])):
        raise UserError(
            f"evaluate: {', '.join(names)} on {n} examples is not the mean of its values on parts; "
            "pass batch_size=0"
        )
    totals: dict[str, float] = {}
    for begin in range(0, n, size):
        x, y = (map_arrays(lambda a, begin=begin: a[begin : begin + size], part) for part in data)
        found = metrics(state.params, state.buffers, (x, y))
        _expect_same_metrics(found, totals if begin else found)
        for name, value in found.items():
            if getattr(value, "shape", ()) != ():
                raise UserError(
                    f"evaluate: {name!r} has the shape {tuple(value.shape)}, needs a scalar; call"
                    " the metrics of an ensemble themselves: metrics(params, buffers, batch)"
                )
            totals[name] = totals.get(name, 0.0) + _number(name, value) * min(size, n - begin)
    return {name: total / n for name, total in totals.items()}


def _expect_same_metrics(found: Any, before: dict) -> None:
    """Raise a UserError unless the metrics of a part are a dict, with the names of those before."""
    if not isinstance(found, dict):
        raise UserError(f"evaluate: metrics returned a {type(found).__name__}, needs a dict")
    if found.keys() != before.keys():
        names = (", ".join(sorted(map(str, each))) or "none" for each in (found, before))
        raise UserError("evaluate: a part has the metrics {}, those before it {}".format(*names))


def _where_it_diverged(step: Step, state: TrainState, batches, row: dict) -> str:
    """Say where the first number that is not finite came up.

    Steps are pure, so the steps since the last row can be taken again, this time looking at each.
    """
    for i in range(int(state.step), row["step"]):
        state, metrics = step(state, batches(i))
        for name, value in metrics.items():
            if not math.isfinite(float(value)):
                return f"the {name} is {float(value)} at step {i + 1}"
    return f"the evaluation after step {row['step']} is not finite"
