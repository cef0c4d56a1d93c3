"""Ensembles: states of several members stacked into one, and the loop that steps them on NumPy.

    state = stack_states([init_state(model, optimizer, random.key(seed)) for seed in range(10)])
    state, metrics = ensemble(step)(state, batch)   # batch: x (members, batch, ...), y (members, batch)
    unstack_states(state)[3]                        # the state of seed 3, as if it had been trained alone

`torch_nets.ensemble` has the same interface and steps all members at once, by vmap.
"""

from collections.abc import Callable, Sequence

from purenets.core import tree
from purenets.core.arrays import namespace
from purenets.core.base import Step, TrainState, UserError


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """Return states of the same shapes and the same step as one, with a first axis of members."""
    steps = [int(state.step) for state in states]
    if len(set(steps)) != 1:
        raise UserError(f"stack_states: needs states of one step, got {steps}")
    params, buffers, opt_state = (tree.stack([state[i] for state in states]) for i in range(3))
    key = namespace(states[0].key).stack([state.key for state in states])
    return TrainState(params, buffers, opt_state, key, states[0].step)


def unstack_states(state: TrainState) -> list[TrainState]:
    """Return the members of a stacked state: the inverse of `stack_states`."""
    n = state.key.shape[0]
    params, buffers, opt_states = (_unstacked(part, n) for part in state[:3])
    return [TrainState(params[i], buffers[i], opt_states[i], state.key[i], state.step) for i in range(n)]


def ensemble(step: Step, *, same_batch: bool = False) -> Step:
    """Return `step` for a stacked state and stacked batches; metrics come back as (members,).

    same_batch: all members see one batch, without an axis of members.
    """

    def step_all(state: TrainState, batch):
        members = unstack_states(state)
        results = [step(member, _member_batch(batch, i, same_batch)) for i, member in enumerate(members)]
        states, metrics = zip(*results, strict=True)
        return stack_states(states), tree.stack(metrics)

    return step_all


def ensemble_metrics(metrics: Callable, *, same_batch: bool = True) -> Callable:
    """Return `metrics(params, buffers, batch)` of all members: each metric as (members,)."""

    def metrics_all(params, buffers, batch):
        members = tree.unstack(params)
        states = zip(members, _unstacked(buffers, len(members)), strict=True)
        rows = [metrics(*state, _member_batch(batch, i, same_batch)) for i, state in enumerate(states)]
        return tree.stack(rows)

    return metrics_all


def _unstacked(part: dict, n: int) -> list[dict]:
    return tree.unstack(part) if tree.leaves(part) else [part] * n


def _member_batch(batch, i: int, same_batch: bool):
    return batch if same_batch else tuple(part[i] for part in batch)
