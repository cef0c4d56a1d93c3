"""Backtracking: a step is shortened until the loss falls enough (Armijo 1966)."""

from purenets.core import tree
from purenets.core.arguments import (
    FROM_1,
    NOT_NEGATIVE,
    OPEN_FRACTION,
    expect_hypers,
    expect_integers,
    expect_numbers,
)
from purenets.core.arrays import namespace
from purenets.core.base import Optimizer
from purenets.core.optim.internals.arithmetic import at_most, dot, full_like
from purenets.core.optim.internals.extra_args import loss_value
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    has_schedule,
    init_count,
    next_count,
    resolve_hyper,
    zero_count,
)
from purenets.core.optim.internals.order import searching, with_order
from purenets.core.optim.internals.precision import any_dtype, real_only
from purenets.core.optim.line_search.direction import along, direction_of
from purenets.core.optim.line_search.masked_loop import masked_loop


def backtracking(
    lr: Hyper = 1.0,
    direction: Optimizer | None = None,
    c1: float = 1e-4,
    shrink: float = 0.5,
    grow: float = 2.0,
    max_steps: int = 20,
) -> Optimizer:
    """Return steps t * u, t shortened until the loss falls enough (Armijo's condition).

        f(p + t * u) <= f(p) + c1 * t * (g . u)

    The direction u is -g, or another optimizer's update. The first t tried is `grow` times the last
    one, at most lr (lr itself after a step of 0); each failed trial multiplies it by `shrink`.
    Where no trial succeeds, or u does not go downhill, the params stay.

    Args:
        lr: the largest t.
        direction: the optimizer whose updates are u; give it a learning rate of 1, and no weight
            decay: the loss along u would lack it.
        c1: the fraction of the decrease predicted by the slope that is enough.
        shrink: the factor of t after a failed trial.
        grow: the factor of t from one update to the next.
        max_steps: trials in an update at most, each an evaluation of the loss.

    Returns:
        An optimizer for real params. Its `update` needs `value_and_grad_fn` (`make_step` passes
        it); its state has the entries "step" (the last t) and "inner".

    Raises:
        UserError: lr is negative or not finite, c1 or shrink is not between 0 and 1, grow is below
            1, max_steps is not a positive integer, or direction is not an Optimizer, averages the
            params, has weight decay or points uphill (it has no learning rate); from `init`: a leaf
            is complex; from `update`: value_and_grad_fn is missing.

    Example:
        The loss 2 w^2 rises at t = 1 and stays at t = 1/2; t = 1/4 leads to its minimum.

        >>> import numpy as np
        >>> from purenets import optim
        >>> def value_and_grad(params):
        ...     return 2 * (params["w"] ** 2).sum(), {"w": 4 * params["w"]}
        >>> optimizer, params = optim.backtracking(), {"w": np.array([1.0])}
        >>> value, grads = value_and_grad(params)
        >>> updates, state = optimizer.update(
        ...     grads, optimizer.init(params), params, value=value, value_and_grad_fn=value_and_grad
        ... )
        >>> updates["w"], float(state["step"])
        (array([-1.]), 0.25)

    Source:
        Armijo 1966, "Minimization of functions having Lipschitz continuous first partial
        derivatives".
    """
    expect_hypers("backtracking", NOT_NEGATIVE, lr=lr)
    expect_numbers("backtracking", OPEN_FRACTION, c1=c1, shrink=shrink)
    expect_numbers("backtracking", FROM_1, grow=grow)
    expect_integers("backtracking", 1, max_steps=max_steps)
    init_direction, start_search = direction_of("backtracking", direction)

    counts = has_schedule(lr)

    def init(params):
        number = count_to_dtype(zero_count(params), params)
        first = full_like(number, resolve_hyper(lr, init_count(params, lr=lr), params))
        return {**init_count(params, lr=lr), "step": first, "inner": init_direction(params)}

    def update(grads, state, params, *, value=None, value_and_grad_fn=None):
        f, loss, moves, inner = start_search(
            grads, state["inner"], params, value, value_and_grad_fn
        )
        slope = dot(grads, moves)
        downhill = slope < 0

        def trial(carry):
            t = carry["t"]
            there = loss_value(
                "backtracking", None, f, tree.map(lambda p, u: p + t * u, params, moves)
            )
            good = there <= loss + c1 * t * slope
            t = namespace(t).where(good, t, shrink * t)
            return {"t": t, "good": good, "running": ~good}

        rate, last = resolve_hyper(lr, state, grads), state["step"]
        longer = namespace(last).where(last > 0, grow * last, full_like(last, rate))
        first = at_most(longer, rate)  # a step of 0, as at the begin of a warmup, grows no more
        start = {"t": first, "good": downhill, "running": downhill}
        end = masked_loop(trial, start, max_steps)
        step = namespace(loss).where(end["good"], end["t"], namespace(loss).zeros_like(loss))
        return along(moves, step), {**next_count(state, counts), "step": end["t"], "inner": inner}

    return real_only(
        "backtracking", any_dtype(with_order(searching("backtracking"), Optimizer(init, update)))
    )
