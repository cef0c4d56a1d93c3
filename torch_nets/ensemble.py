"""Many networks at once: one step that trains all members of a stacked state, by torch.func.vmap.

state = stack_states([init_state(model, optimizer, random.key(seed)) for seed in range(10)])
state, metrics = ensemble(step)(state, batch)     # batch: x (members, batch, ...), y (members, batch)
unstack_states(state)[3]                          # the state of seed 3, as if it had been trained alone
"""

from collections.abc import Callable, Sequence

import torch

from core import tree
from core.base import Step, TrainState, UserError

AXES = TrainState(params=0, buffers=0, opt_state=0, key=0, step=None)  # all have taken as many steps


def ensemble(step: Step, *, same_batch: bool = False) -> Step:
    """`step` for a stacked state and stacked batches; metrics come back as (members,).

    same_batch: all members see one batch, without an axis of members. A member's key is its own, so members
    that draw (dropout) draw differently.
    """
    return torch.func.vmap(
        step, in_dims=(AXES, None if same_batch else 0), out_dims=(AXES, 0), randomness="error"
    )


def ensemble_metrics(metrics: Callable, *, same_batch: bool = True) -> Callable:
    """`metrics(params, buffers, batch)` of all members: each metric as (members,)."""
    return torch.func.vmap(metrics, in_dims=(0, 0, None if same_batch else 0))


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """States of the same shapes and the same step as one, with a first axis of members."""
    if len({int(state.step) for state in states}) != 1:
        raise UserError(f"stack_states: needs states of one step, got {[int(s.step) for s in states]}")
    params, buffers, opt_state = (tree.stack([state[i] for state in states]) for i in range(3))
    return TrainState(params, buffers, opt_state, torch.stack([s.key for s in states]), states[0].step)


def unstack_states(state: TrainState) -> list[TrainState]:
    """The inverse of `stack_states`."""
    n = state.key.shape[0]
    parts = [tree.unstack(part) if tree.leaves(part) else [part] * n for part in state[:3]]
    return [TrainState(*(part[i] for part in parts), state.key[i], state.step) for i in range(n)]
