"""Many networks at once: stacked, in one step by torch.func.vmap, or side by side, as one model.

state = stack_states([init_state(model, optimizer, random.key(seed)) for seed in range(10)])
state, metrics = ensemble(step)(state, batch)  # x: (members, batch, ...)
unstack_states(state)[3]  # the state of seed 3, as if it had been trained alone

model = deep_ensemble(net, 2)                         # its logits are the mean of those of two nets
step  = make_step(per_member_grad_fn(grad_fn(net), 2), optimizer)
"""

from collections.abc import Callable

import torch

from purenets.core import random, tree
from purenets.core.arguments import expect_flags, expect_functions, expect_models
from purenets.core.base import Batch, Buffers, GradFn, Model, Params, Step, TrainState, UserError
from purenets.core.ensemble import check_member_batch, check_stacked, count_members
from purenets.core.memory import sized_like
from purenets.core.serial import init_leaves, takes_example

AXES = TrainState(
    params=0, buffers=0, opt_state=0, key=0, step=None
)  # all have taken as many steps


def ensemble(step: Step, *, same_batch: bool = False) -> Step:
    """`step` for a stacked state and stacked batches; metrics come back as (members,).

    same_batch: all members see one batch, without an axis of members. A member's key is its own, so
    members that draw (dropout) draw differently.
    """
    expect_functions("ensemble", step=step)
    expect_flags("ensemble", same_batch=same_batch)
    step_all = torch.func.vmap(
        step, in_dims=(AXES, None if same_batch else 0), out_dims=(AXES, 0), randomness="error"
    )

    def checked(state: TrainState, batch: Batch):
        n = count_members(state)
        if not same_batch:
            check_member_batch(batch, n)
        return step_all(state, batch)

    return checked


def ensemble_metrics(metrics: Callable, *, same_batch: bool = True) -> Callable:
    """`metrics(params, buffers, batch)` of all members: each metric as (members,)."""
    expect_functions("ensemble_metrics", metrics=metrics)
    expect_flags("ensemble_metrics", same_batch=same_batch)
    metrics_all = torch.func.vmap(metrics, in_dims=(0, 0, None if same_batch else 0))

    def checked(params: Params, buffers: Buffers, batch: Batch):
        n = check_stacked(params, buffers)
        if not same_batch:
            check_member_batch(batch, n)
        return metrics_all(params, buffers, batch)

    return checked


# --- side by side: large nets, for which vmap would be no faster ----------------------------------


def check_members(k: int) -> None:
    if type(k) is not int or k < 1:
        raise UserError(f"members: {k}, needs a positive integer")


def check_prefixes(k: int, params: Params, buffers: Buffers) -> None:
    """Raise a UserError unless the params are of the members 0 to k - 1, and buffers of such."""
    for what, part, needed in (("params", params, k), ("buffers", buffers, 0)):
        found = {name.partition(".")[0] for name in part}
        known = {str(i) for i in range(k)}
        if found - known or len(found) < needed:
            names = ", ".join(sorted(found)) or "none"
            raise UserError(
                f"ensemble of {k}: {what} of the members {names}, expected 0 to {k - 1}"
            )


def deep_ensemble(model: Model, k: int) -> Model:
    """`k` nets as one model, whose logits are the mean of theirs (Lakshminarayanan et al. 2017,
    "Simple and scalable predictive uncertainty estimation using deep ensembles"). Params:
    "0.fc1.weight", "1.fc1.weight"..."""
    expect_models("deep_ensemble", model=model)
    check_members(k)

    def init(key, example=None):
        random.check_key(key)
        params, buffers = {}, {}
        for i in range(k):
            mine, state = init_leaves(model, random.fold_in(torch.as_tensor(key), i), example)
            params |= tree.prefixed(mine, f"{i}.")
            buffers |= tree.prefixed(state, f"{i}.")
        return params, buffers

    init.takes_example = takes_example(model)

    def apply(params, buffers, x, *, train=False, key=None):
        check_prefixes(k, params, buffers)
        logits, new = [], {}
        for i in range(k):
            mine, state = (tree.select(part, f"{i}.") for part in (params, buffers))
            member_key = None if key is None else random.fold_in(key, i)
            y, state = model.apply(mine, state, x, train=train, key=member_key)
            logits.append(y)
            new |= tree.prefixed(state, f"{i}.")
        return sum(logits[1:], logits[0]) / k, new

    init = sized_like(init, [model], k)
    return model._replace(init=init, apply=apply, kind="Ensemble", layers={})


def per_member_grad_fn(grad_fn: GradFn, k: int) -> GradFn:
    """The gradients of the members of `deep_ensemble`, each of its own loss and with a key of its
    own: what trains them as if each were alone. Metrics are the mean of theirs."""
    expect_functions("per_member_grad_fn", grad_fn=grad_fn)
    check_members(k)

    def grad(params: Params, buffers: Buffers, batch: Batch, key):
        check_prefixes(k, params, buffers)
        grads, new, rows = {}, {}, []
        for i in range(k):
            mine, state = (tree.select(part, f"{i}.") for part in (params, buffers))
            member_key = None if key is None else random.fold_in(key, i)
            mine, (state, metrics) = grad_fn(mine, state, batch, member_key)
            grads |= tree.prefixed(mine, f"{i}.")
            new |= tree.prefixed(state, f"{i}.")
            rows.append(metrics)
        return grads, (new, tree.map(lambda values: values.mean(0), tree.stack(rows)))

    return grad
