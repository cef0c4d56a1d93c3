"""Polyak's step size: as far as the loss is from its minimum, over the squared gradient.

Source: Polyak 1987, "Introduction to optimization"; with an upper bound, for stochastic gradients:
Loizou et al. 2021, arXiv 2002.10542.
"""

from purenets.core import tree
from purenets.core.arguments import (
    FINITE,
    NOT_NEGATIVE,
    POSITIVE,
    expect_hypers,
    expect_numbers,
)
from purenets.core.base import Optimizer
from purenets.core.optim.internals.arithmetic import at_least, at_most, nonzero, scaled
from purenets.core.optim.internals.extra_args import loss_value
from purenets.core.optim.internals.hyper import (
    Hyper,
    has_schedule,
    init_count,
    next_count,
    resolve_hyper,
)
from purenets.core.optim.internals.order import TURNS, with_order
from purenets.core.optim.internals.precision import any_dtype, real_only


def polyak(
    lr: Hyper = 1.0, f_min: float = 0.0, scaling: Hyper = 1.0, eps: float = 0.0
) -> Optimizer:
    """Return gradient descent with Polyak's step size, from the loss and the squared gradient.

        rate = min(lr, scaling * (f - f_min) / (|g|^2 + eps));  p = p - rate * g

    Args:
        lr: the largest rate.
        f_min: the smallest loss; 0 for a network that can fit its data.
        scaling: a factor of the rate; the 1 / c of Loizou et al.
        eps: added to the squared norm.

    Returns:
        An optimizer for real params. Its `update` needs the loss as `value` (`make_step` passes
        it); its state is empty, or has a "count" if lr or scaling is a schedule.

    Raises:
        UserError: lr or eps is negative or not finite, scaling is not a finite number above 0, or
            f_min is not finite; from `init`: a leaf is complex; from `update`: value is missing.

    Example:
        For the loss w^2 / 2 at w = 2 the rate is 2 / 2^2.

        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.polyak(), {"w": np.array([2.0])}
        >>> state, grads = optimizer.init(params), {"w": np.array([2.0])}
        >>> updates, _ = optimizer.update(grads, state, params, value=2.0)
        >>> updates["w"]
        array([-1.])

    Source:
        Polyak 1987, "Introduction to optimization"; Loizou et al. 2021, arXiv 2002.10542.
    """
    expect_hypers("polyak", NOT_NEGATIVE, lr=lr)
    expect_hypers("polyak", POSITIVE, scaling=scaling)
    counts = has_schedule(lr, scaling)
    expect_numbers("polyak", FINITE, f_min=f_min)
    expect_numbers("polyak", NOT_NEGATIVE, eps=eps)

    def update(grads, state, params, *, value=None, value_and_grad_fn=None):
        loss = loss_value("polyak", value, value_and_grad_fn, params)
        most, factor = (resolve_hyper(hyper, state, grads) for hyper in (lr, scaling))
        squares = tree.norm(grads) ** 2 + eps
        rate = factor * at_least(loss - f_min, 0.0) / nonzero(squares)
        return scaled(grads, -at_most(rate, most)), next_count(state, counts)

    optimizer = Optimizer(lambda params: init_count(params, lr=lr, scaling=scaling), update)
    return real_only("polyak", any_dtype(with_order(TURNS, optimizer)))
