"""Steps along a direction that satisfy the strong Wolfe conditions."""

from purenets.core import tree
from purenets.core.arguments import (
    NOT_NEGATIVE,
    OPEN_FRACTION,
    Range,
    expect_hypers,
    expect_integers,
    expect_numbers,
)
from purenets.core.arrays import namespace
from purenets.core.base import Optimizer
from purenets.core.optim.internals.arithmetic import full_like, scaled
from purenets.core.optim.internals.extra_args import loss_value
from purenets.core.optim.internals.hyper import Hyper, init_count, next_count, resolve_hyper
from purenets.core.optim.internals.precision import any_dtype, real_only
from purenets.core.optim.line_search.direction import direction_of
from purenets.core.optim.line_search.masked_loop import masked_loop
from purenets.core.optim.line_search.search import C1, C2, advance_search, begin_search
from purenets.core.optim.line_search.vectors import dot, flattened, largest


def strong_wolfe(
    lr: Hyper = 1.0,
    direction: Optimizer | None = None,
    c1: float = C1,
    c2: float = C2,
    max_eval: int = 25,
    tolerance_change: float = 1e-9,
) -> Optimizer:
    """Return steps t u with f(p + t u) <= f(p) + c1 t g u and |g(p + t u) u| <= c2 |g u|.

    Here u is -g, or another optimizer's update. The search brackets a minimum along u and zooms in,
    as that of `lbfgs` and torch.optim.LBFGS. Where u does not go downhill the params stay.

    Args:
        lr: the first t of each search.
        direction: the optimizer whose updates are u, with a learning rate of 1.
        c1: the part of the linear decrease that is enough.
        c2: the part of the slope that may be left.
        max_eval: evaluations of the loss and its gradient in an update.
        tolerance_change: a bracket in which no element of the params differs by more is small
            enough.

    Returns:
        An optimizer that needs `value_and_grad_fn`.

    Example:
        >>> from purenets import optim
        >>> adam = optim.chain(optim.scale_by_adam(), optim.scale_by_learning_rate(1.0))
        >>> optimizer = optim.strong_wolfe(direction=adam)
    """
    expect_hypers("strong_wolfe", NOT_NEGATIVE, lr=lr)
    expect_numbers("strong_wolfe", OPEN_FRACTION, c1=c1)
    expect_numbers("strong_wolfe", Range("above c1 and below 1", lambda v: c1 < v < 1), c2=c2)
    expect_numbers("strong_wolfe", NOT_NEGATIVE, tolerance_change=tolerance_change)
    expect_integers("strong_wolfe", 1, max_eval=max_eval)
    init_direction, start_search = direction_of("strong_wolfe", direction)

    def init(params):
        return {**init_count(params, lr), "inner": init_direction(params)}

    def update(grads, state, params, *, value=None, value_and_grad_fn=None):
        f, loss, moves, inner = start_search(
            grads, state["inner"], params, value, value_and_grad_fn
        )
        d, g = flattened(moves)[0], flattened(grads)[0]
        zero = namespace(loss).zeros_like(loss)
        start = {"t": zero, "f": loss, "g": g, "slope": dot(g, d)}
        size, limit = largest(d), max_eval - 1

        def evaluate(carry):
            search, t = carry["search"], carry["search"]["t"]
            there, slope = f(tree.map(lambda p, u: p + t * u, params, moves))
            g = flattened(slope)[0]
            new = {"t": t, "f": loss_value("", there, f, params), "g": g, "slope": dot(g, d)}
            search, found, best = advance_search(
                search, new, start, size, limit, tolerance_change, c1, c2
            )
            return {"search": search, "t": best["t"], "running": ~found}

        first = full_like(loss, resolve_hyper(lr, state, grads))
        carry = {"search": begin_search(first, start), "t": zero, "running": start["slope"] < 0}
        step = masked_loop(evaluate, carry, max_eval)["t"]
        return scaled(moves, step), {**next_count(state), "inner": inner}

    return real_only("strong_wolfe", any_dtype(Optimizer(init, update)))
