"""Ensembles: states of several members stacked into one, and the loop that steps them on NumPy.

    state = stack_states([init_state(model, optimizer, random.key(seed)) for seed in range(10)])
    state, metrics = ensemble(step)(state, batch)  # x: (members, batch, ...)
    unstack_states(state)[3]  # the state of seed 3, as if it had been trained alone

`torch_nets.ensemble` has the same interface and steps all members at once, by vmap.
"""

from collections.abc import Callable, Sequence

from purenets.core import tree
from purenets.core.arguments import METRICS_FN, STEP, expect_call, expect_flags, expect_states
from purenets.core.arrays import namespace
from purenets.core.base import Batch, Step, TrainState, UserError
from purenets.core.batch import map_arrays
from purenets.core.data.checks import input_leaves


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """Return several states as one, whose arrays have a new first axis of members.

    Args:
        states: a list of states, at least one, with the same shapes and the same step.

    Returns:
        A `TrainState`. Its leaves are (members, ...), its key (members, 2), its step a scalar.

    Raises:
        UserError: there are no states, or they differ in step or shapes; the leaf is named.

    Example:
        >>> from purenets import init_state, optim, random
        >>> from purenets.numpy_nets import MLP, stack_states
        >>> model, optimizer = MLP(2, [3], 2), optim.sgd(0.1)
        >>> states = [init_state(model, optimizer, random.key(seed)) for seed in range(5)]
        >>> stack_states(states).params["fc1.weight"].shape
        (5, 3, 2)
    """
    if not isinstance(states, list | tuple) or not states:
        raise UserError("stack_states: no states, needs a list of one or more")
    expect_states("stack_states", **{f"states[{i}]": state for i, state in enumerate(states)})
    steps = [int(state.step) for state in states]
    if len(set(steps)) != 1:
        raise UserError(f"stack_states: needs states of one step, got {steps}")
    for state in states[1:]:
        for i in range(3):
            tree.check_like(state[i], states[0][i])
    params, buffers, opt_state = (tree.stack([state[i] for state in states]) for i in range(3))
    key = namespace(states[0].key).stack([state.key for state in states])
    return TrainState(params, buffers, opt_state, key, states[0].step)


def unstack_states(state: TrainState) -> list[TrainState]:
    """Return the members of a stacked state: the inverse of `stack_states`.

    Args:
        state: a stacked state, as `stack_states` or the step of an ensemble returns it.

    Returns:
        A list of states, each as if it had been trained alone.

    Raises:
        UserError: `state` is that of a single network, or its leaves differ in members.

    Example:
        >>> from purenets import init_state, optim, random
        >>> from purenets.numpy_nets import MLP, stack_states, unstack_states
        >>> state = init_state(MLP(2, [3], 2), optim.sgd(0.1), random.key(0))
        >>> members = unstack_states(stack_states([state, state]))
        >>> len(members), members[1].params["fc1.weight"].shape
        (2, (3, 2))
    """
    n = count_members(state)
    params, buffers, opt_states = (_unstacked(part, n) for part in state[:3])
    return [
        TrainState(params[i], buffers[i], opt_states[i], state.key[i], state.step) for i in range(n)
    ]


def ensemble(step: Step, *, same_batch: bool = False) -> Step:
    """Return a step of all members of a stacked state, one after the other.

    Args:
        step: the step of one member, as `make_step` returns it.
        same_batch: True if all members see the same batch. Otherwise the arrays of a batch have a
            first axis of members.

    Returns:
        `step_all(state, batch) -> (state, metrics)`; each metric is (members,).

    Raises:
        UserError: an argument has the wrong type or value; from the step, the state is not stacked,
            or the batch lacks the axis of members.

    Example:
        >>> import numpy as np
        >>> from purenets import init_state, make_step, optim, random
        >>> from purenets.numpy_nets import MLP, ensemble, grad_fn, stack_states
        >>> model, optimizer = MLP(2, [3], 2), optim.sgd(0.1)
        >>> keys = random.split(random.key(0), 2)
        >>> state = stack_states([init_state(model, optimizer, key) for key in keys])
        >>> step_all = ensemble(make_step(grad_fn(model), optimizer), same_batch=True)
        >>> state, metrics = step_all(state, (np.ones((4, 2), np.float32), np.array([0, 1, 1, 0])))
        >>> state.params["fc1.weight"].shape, metrics["loss"].shape
        ((2, 3, 2), (2,))
    """
    expect_call("ensemble", STEP, step=step)
    expect_flags("ensemble", same_batch=same_batch)

    def step_all(state: TrainState, batch):
        members = unstack_states(state)
        if not same_batch:
            check_member_batch(batch, len(members))
        results = [
            step(member, _member_batch(batch, i, same_batch)) for i, member in enumerate(members)
        ]
        states, metrics = zip(*results, strict=True)
        return stack_states(states), tree.stack(metrics)

    return step_all


def ensemble_metrics(metrics: Callable, *, same_batch: bool = True) -> Callable:
    """Return the metrics of all members of a stacked state.

    Args:
        metrics: the function for one member, as `metrics_fn(model)` returns it.
        same_batch: True if all members see the same batch. Otherwise the arrays of a batch have a
            first axis of members.

    Returns:
        `metrics_all(params, buffers, batch) -> dict`; each metric is (members,).

    Raises:
        UserError: an argument has the wrong type or value; from the function, the params are not
            stacked, or the batch lacks the axis of members.

    Example:
        >>> import numpy as np
        >>> from purenets import init_state, optim, random
        >>> from purenets.numpy_nets import MLP, ensemble_metrics, metrics_fn, stack_states
        >>> model = MLP(2, [3], 2)
        >>> states = [init_state(model, optim.sgd(0.1), random.key(seed)) for seed in (0, 1, 2)]
        >>> params, buffers, *_ = stack_states(states)
        >>> batch = np.ones((4, 2), np.float32), np.array([0, 1, 1, 0])
        >>> ensemble_metrics(metrics_fn(model))(params, buffers, batch)["accuracy"].shape
        (3,)
    """
    expect_call("ensemble_metrics", METRICS_FN, metrics=metrics)
    expect_flags("ensemble_metrics", same_batch=same_batch)

    def metrics_all(params, buffers, batch):
        n = check_stacked(params, buffers)
        if not same_batch:
            check_member_batch(batch, n)
        states = zip(tree.unstack(params), _unstacked(buffers, n), strict=True)
        rows = [
            metrics(*state, _member_batch(batch, i, same_batch)) for i, state in enumerate(states)
        ]
        return tree.stack(rows)

    return metrics_all


def count_members(state: TrainState) -> int:
    """Return how many members a stacked state has; a UserError if it is none."""
    expect_states("ensemble", state=state)
    if state.key.ndim != 2:
        raise UserError("ensemble: the state is that of one net; stack_states makes one of several")
    if getattr(state.step, "ndim", 0):
        raise UserError(
            f"ensemble: state.step has the shape {tuple(state.step.shape)}, as vmap stacks it;"
            " members share one count, state._replace(step=state.step[0])"
        )
    check_stacked(*state[:3], n=state.key.shape[0])
    return state.key.shape[0]


def check_stacked(*parts: dict, n: int | None = None) -> int:
    """Return the length of the first axis of all leaves: `n`, if given.

    Raises:
        UserError: with the name of the first leaf that has another length.
    """
    for part in parts:
        for name, leaf in tree.flatten(part).items():
            have = leaf.shape[0] if leaf.ndim else 0
            n = have if n is None else n
            if have != n:
                raise UserError(f"ensemble: {name} has {have} members, expected {n}")
    if not n:
        raise UserError("ensemble: no members, needs one or more")
    return n


def check_member_batch(batch: Batch, n: int) -> None:
    """Raise a UserError unless every array of a batch has a first axis of `n` members."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UserError(f"ensemble: the batch is a {type(batch).__name__}, needs a pair")
    for name, part in zip(("inputs", "targets"), batch, strict=True):
        for array in input_leaves(part):
            if not hasattr(array, "ndim"):
                raise UserError(f"ensemble: {name} are a {type(array).__name__}, needs an array")
            if array.ndim == 0 or array.shape[0] != n:
                shape = tuple(array.shape)
                raise UserError(
                    f"ensemble: {name} {shape} for {n} members, needs ({n}, batch, ...); for one "
                    "batch for all of them, same_batch=True"
                )


def _unstacked(part: dict, n: int) -> list[dict]:
    return tree.unstack(part) if tree.leaves(part) else [part] * n


def _member_batch(batch, i: int, same_batch: bool):
    return batch if same_batch else tuple(map_arrays(lambda a: a[i], part) for part in batch)
