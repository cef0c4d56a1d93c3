"""Many NumPy networks with the interface of `torch_nets.ensemble`: a loop over the members of a stacked state.

state = stack_states([init_state(model, optimizer, random.key(seed)) for seed in range(10)])
state, metrics = ensemble(step)(state, batch)     # batch: x (members, batch, ...), y (members, batch)
unstack_states(state)[3]                          # the state of seed 3, as if it had been trained alone
"""

from collections.abc import Callable, Sequence

import numpy as np

from core import tree
from core.base import Step, TrainState, UserError


def ensemble(step: Step, *, same_batch: bool = False) -> Step:
    """`step` for a stacked state and stacked batches; metrics come back as (members,).

    same_batch: all members see one batch, without an axis of members.
    """

    def step_all(state: TrainState, batch):
        members = unstack_states(state)
        batches = [batch if same_batch else tuple(part[i] for part in batch) for i in range(len(members))]
        states, metrics = zip(*map(step, members, batches), strict=True)
        return stack_states(states), _stacked(metrics)

    return step_all


def ensemble_metrics(metrics: Callable, *, same_batch: bool = True) -> Callable:
    """`metrics(params, buffers, batch)` of all members: each metric as (members,)."""

    def of_all(params, buffers, batch):
        each = tree.unstack(params)
        their_buffers = tree.unstack(buffers) if tree.leaves(buffers) else [buffers] * len(each)
        batches = [batch if same_batch else tuple(part[i] for part in batch) for i in range(len(each))]
        return _stacked(list(map(metrics, each, their_buffers, batches)))

    return of_all


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """States of the same shapes and the same step as one, with a first axis of members."""
    if len({int(state.step) for state in states}) != 1:
        raise UserError(f"stack_states: needs states of one step, got {[int(s.step) for s in states]}")
    params, buffers, opt_state = (_stacked([state[i] for state in states]) for i in range(3))
    return TrainState(params, buffers, opt_state, np.stack([s.key for s in states]), states[0].step)


def unstack_states(state: TrainState) -> list[TrainState]:
    """The inverse of `stack_states`."""
    n = state.key.shape[0]
    parts = [tree.unstack(part) if tree.leaves(part) else [part] * n for part in state[:3]]
    return [TrainState(*(part[i] for part in parts), state.key[i], state.step) for i in range(n)]


def _stacked(trees: Sequence[dict]) -> dict:
    return tree.map(lambda *leaves: np.stack(leaves), trees[0], *trees[1:])
