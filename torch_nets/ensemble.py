"""Many networks at once: stacked, in one step by torch.func.vmap, or side by side, as one model.

    state = stack_states([init_state(model, optimizer, random.key(seed)) for seed in range(10)])
    state, metrics = ensemble(step)(state, batch)  # x: (members, batch, ...)
    unstack_states(state)[3]  # the state of seed 3, as if it had been trained alone

    model = deep_ensemble(net, 2)  # its logits are the mean of those of two nets
    step  = make_step(per_member_grad_fn(grad_fn(net), 2), optimizer)

Side by side suits large nets, for which vmap would be no faster.
"""

from collections.abc import Callable

import torch

from purenets.core import random, tree
from purenets.core.arguments import (
    GRAD_FN,
    METRICS_FN,
    STEP,
    expect_call,
    expect_flags,
    expect_models,
    is_integer,
    whole_only_of,
)
from purenets.core.arrays import kind_of, widened
from purenets.core.base import Batch, Buffers, GradFn, Model, Params, Step, TrainState, UserError
from purenets.core.ensemble import check_member_batch, check_stacked, count_members
from purenets.core.memory import sized_like
from purenets.core.serial import init_leaves, takes_example
from purenets.torch_nets.keys import key_like

AXES = TrainState(
    params=0, buffers=0, opt_state=0, key=0, step=None
)  # all have taken as many steps


def ensemble(step: Step, *, same_batch: bool = False) -> Step:
    """Return the training step of many nets at once, by torch.func.vmap.

    Args:
        step: the step of one net, `make_step(grad_fn, optimizer)`.
        same_batch: True if all members train on the same batch; False if batches have a leading
            axis of members.

    Returns:
        The step of a stacked state: `step(state, batch) -> (state, metrics)`, each metric
        (members,). `stack_states` makes such a state. Each member has a key of its own, so those
        that draw (dropout) draw differently.

    Raises:
        UserError: an argument is wrong. In a step: the state is not stacked, or the leading axis of
            the batch is not of the members.

    Example:
        >>> import torch
        >>> from purenets import init_state, make_step, optim, random
        >>> from purenets.torch_nets import MLP, ensemble, grad_fn, stack_states
        >>> model, optimizer = MLP(2, [8], 2), optim.sgd(0.1)
        >>> states = [init_state(model, optimizer, random.key(seed)) for seed in range(3)]
        >>> step = ensemble(make_step(grad_fn(model), optimizer), same_batch=True)
        >>> batch = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
        >>> state, metrics = step(stack_states(states), batch)
        >>> state.params["fc1.weight"].shape, metrics["loss"].shape
        (torch.Size([3, 8, 2]), torch.Size([3]))

    Source:
        torch.func.vmap; "Model ensembling" in the tutorials of PyTorch.
    """
    expect_call("ensemble", STEP, step=step)
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
    """Return the evaluation of many nets at once, by torch.func.vmap.

    Args:
        metrics: the evaluation of one net, `metrics_fn(model)`.
        same_batch: True if all members see the same batch; False if batches have a leading axis of
            members.

    Returns:
        `f(params, buffers, batch)` of stacked params and buffers; each metric is (members,).

    Raises:
        UserError: an argument is wrong. When called: params and buffers are not stacked, or the
            leading axis of the batch is not of the members.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import ensemble_metrics, layers, losses, metrics_fn
        >>> measure = ensemble_metrics(metrics_fn(layers.Linear(1, 1, bias=False), losses.mse))
        >>> params = {"weight": torch.tensor([1.0, 2.0]).view(2, 1, 1)}  # of two nets
        >>> measure(params, {}, (torch.ones(5, 1), torch.zeros(5, 1)))
        {'loss': tensor([1., 4.])}
    """
    expect_call("ensemble_metrics", METRICS_FN, metrics=metrics)
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
    """Raise a UserError unless the number of members is a positive integer."""
    if not is_integer(k) or k < 1:
        raise UserError(f"k, the number of members: {k!r}, needs a positive integer")


def check_prefixes(k: int, params: Params, buffers: Buffers) -> None:
    """Raise a UserError unless params and buffers are those of the members 0 to k - 1.

    Args:
        k: how many members there are.
        params: tensors by name.
        buffers: tensors by name; not every member needs some.

    Raises:
        UserError: members are missing, or there are others.
    """
    for what, part, needed in (("params", params, k), ("buffers", buffers, 0)):
        found = {name.partition(".")[0] for name in part}
        known = {str(i) for i in range(k)}
        if found - known or len(found) < needed:
            names = ", ".join(sorted(found)) or "none"
            raise UserError(
                f"ensemble of {k}: {what} of the members {names}, expected 0 to {k - 1}"
            )


def deep_ensemble(model: Model, k: int) -> Model:
    """Return k nets as one model, whose logits are the mean of theirs.

    The members are applied one after the other, for large nets that vmap would not make faster.

    Args:
        model: one net.
        k: how many there are.

    Returns:
        A model with the params of all, "0.fc1.weight", "1.fc1.weight" and so on.
        `per_member_grad_fn` trains it.

    Raises:
        UserError: `model` is not a model, or `k` is not a positive integer. When applied: params of
            other members.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.ensemble import deep_ensemble
        >>> model = deep_ensemble(layers.Linear(1, 1, bias=False), 2)
        >>> params = {"0.weight": torch.tensor([[1.0]]), "1.weight": torch.tensor([[3.0]])}
        >>> model.apply(params, {}, torch.ones(1, 1))[0]
        tensor([[2.]])

    Source:
        Lakshminarayanan et al. 2017, arXiv 1612.01474.
    """
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
        logits, new, key = [], {}, key_like(key, x)
        for i in range(k):
            mine, state = (tree.select(part, f"{i}.") for part in (params, buffers))
            member_key = None if key is None else random.fold_in(key, i)
            y, state = model.apply(mine, state, x, train=train, key=member_key)
            logits.append(y)
            new |= tree.prefixed(state, f"{i}.")
        mean = sum(map(widened, logits[1:]), widened(logits[0])) / k
        return mean.to(logits[0].dtype), new

    init = sized_like(init, [model], k)
    return model._replace(init=init, apply=apply, kind="Ensemble", layers={})


def per_member_grad_fn(grad_fn: GradFn, k: int) -> GradFn:
    """Return the gradient function that trains each member of a `deep_ensemble` on its own loss.

    Each member has a key of its own, so the ensemble trains as if each net were alone. That needs
    an optimizer that treats every leaf alone; one that reads the loss, which is the mean of theirs,
    or the norm of all gradients, couples them: train those by `ensemble`.

    Args:
        grad_fn: the gradient function of one net.
        k: how many members there are.

    Returns:
        A gradient function of the params of all members; its metrics are the means of theirs.

    Raises:
        UserError: `grad_fn` is not a function, or `k` is not a positive integer. When called:
            params of other members.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import grad_fn, layers, losses
        >>> from purenets.torch_nets.ensemble import per_member_grad_fn
        >>> grad = per_member_grad_fn(grad_fn(layers.Linear(1, 1, bias=False), losses.mse), 2)
        >>> params = {"0.weight": torch.tensor([[1.0]]), "1.weight": torch.tensor([[3.0]])}
        >>> grads, _ = grad(params, {}, (torch.ones(1, 1), torch.zeros(1, 1)), None)
        >>> {name: leaf.item() for name, leaf in grads.items()}
        {'0.weight': 2.0, '1.weight': 6.0}

    Source:
        Lakshminarayanan et al. 2017, arXiv 1612.01474.
    """
    expect_call("per_member_grad_fn", GRAD_FN, grad_fn=grad_fn)
    check_members(k)

    def grad(params: Params, buffers: Buffers, batch: Batch, key):
        check_prefixes(k, params, buffers)
        grads, new, rows, key = {}, {}, [], key_like(key, params)
        for i in range(k):
            mine, state = (tree.select(part, f"{i}.") for part in (params, buffers))
            member_key = None if key is None else random.fold_in(key, i)
            mine, (state, metrics) = grad_fn(mine, state, batch, member_key)
            grads |= tree.prefixed(mine, f"{i}.")
            new |= tree.prefixed(state, f"{i}.")
            rows.append(metrics)
        mean = lambda values: (values.double() if kind_of(values) in "bi" else values).mean(0)
        return grads, (new, tree.map(mean, tree.stack(rows)))

    grad.whole_only = whole_only_of(grad_fn)
    return grad
