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
from purenets.core.optim.internals.arithmetic import full_like
from purenets.core.optim.internals.extra_args import loss_value
from purenets.core.optim.internals.hyper import (
    Hyper,
    has_schedule,
    init_count,
    next_count,
    resolve_hyper,
)
from purenets.core.optim.internals.order import searching, with_order
from purenets.core.optim.internals.precision import any_dtype, real_only
from purenets.core.optim.line_search.direction import along, direction_of
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
    """Return steps t * u that satisfy the strong Wolfe conditions, by bracketing and cubic zoom.

        f(p + t * u) <= f(p) + c1 * t * (g . u);  |g(p + t * u) . u| <= c2 * |g . u|

    The direction u is -g, or another optimizer's update. The search is that of `lbfgs`. Where u
    does not go downhill, the params stay.

    Args:
        lr: the first t of each search.
        direction: the optimizer whose updates are u; give it a learning rate of 1, and no weight
            decay: the loss along u would lack it.
        c1: the fraction of the decrease predicted by the slope that is enough.
        c2: the largest fraction of the first slope that may remain; above c1.
        max_eval: at most this many evaluations of loss and gradient per update.
        tolerance_change: a search ends once its bracket moves no element by more than this.

    Returns:
        An optimizer for real params. Its `update` needs `value_and_grad_fn` (`make_step` passes
        it); its state has the entry "inner".

    Raises:
        UserError: lr or tolerance_change is negative or not finite, not 0 < c1 < c2 < 1, max_eval
            is not a positive integer, or direction is not an Optimizer, averages the params, has
            weight decay or points uphill (it has no learning rate); from `init`: a leaf is complex;
            from `update`: value_and_grad_fn is missing.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> def value_and_grad(params):
        ...     return 2 * (params["w"] ** 2).sum(), {"w": 4 * params["w"]}
        >>> adam = optim.chain(optim.scale_by_adam(), optim.scale_by_learning_rate(1.0))
        >>> optimizer, params = optim.strong_wolfe(1.0, adam, c2=0.1), {"w": np.array([3.0])}
        >>> value, grads = value_and_grad(params)
        >>> updates, _ = optimizer.update(
        ...     grads, optimizer.init(params), params, value=value, value_and_grad_fn=value_and_grad
        ... )
        >>> updates["w"].round(3)  # Adam's direction is -1, the minimum is 3 away
        array([-3.])

    Source:
        torch.optim.LBFGS, its line search; Nocedal and Wright 2006, "Numerical optimization",
        algorithms 3.5 and 3.6.
    """
    expect_hypers("strong_wolfe", NOT_NEGATIVE, lr=lr)
    expect_numbers("strong_wolfe", OPEN_FRACTION, c1=c1)
    expect_numbers("strong_wolfe", Range("above c1 and below 1", lambda v: c1 < v < 1), c2=c2)
    expect_numbers("strong_wolfe", NOT_NEGATIVE, tolerance_change=tolerance_change)
    expect_integers("strong_wolfe", 1, max_eval=max_eval)
    init_direction, start_search = direction_of("strong_wolfe", direction)

    counts = has_schedule(lr)

    def init(params):
        return {**init_count(params, lr=lr), "inner": init_direction(params)}

    def update(grads, state, params, *, value=None, value_and_grad_fn=None):
        f, loss, moves, inner = start_search(
            grads, state["inner"], params, value, value_and_grad_fn
        )
        d, g = (flattened(leaves, params)[0] for leaves in (moves, grads))
        zero = namespace(loss).zeros_like(loss)
        start = {"t": zero, "f": loss, "g": g, "slope": dot(g, d)}
        size, limit = largest(d), max_eval - 1

        def evaluate(carry):
            search, t = carry["search"], carry["search"]["t"]
            there, slope = f(tree.map(lambda p, u: p + t * u, params, moves))
            g = flattened(slope, params)[0]
            new = {"t": t, "f": loss_value("", there, f, params), "g": g, "slope": dot(g, d)}
            search, found, best = advance_search(
                search, new, start, size, limit, tolerance_change, c1, c2
            )
            return {"search": search, "t": best["t"], "running": ~found}

        first = full_like(loss, resolve_hyper(lr, state, grads))
        carry = {"search": begin_search(first, start), "t": zero, "running": start["slope"] < 0}
        step = masked_loop(evaluate, carry, max_eval)["t"]
        return along(moves, step), {**next_count(state, counts), "inner": inner}

    return real_only(
        "strong_wolfe", any_dtype(with_order(searching("strong_wolfe"), Optimizer(init, update)))
    )
