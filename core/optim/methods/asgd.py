"""Averaged stochastic gradient descent (Polyak and Juditsky 1992), as in torch.optim.ASGD."""

from purenets.core import tree
from purenets.core.arguments import NOT_NEGATIVE, expect_hypers, expect_numbers
from purenets.core.base import Optimizer
from purenets.core.optim.internals.arithmetic import at_least, copies, full_like
from purenets.core.optim.internals.elementwise import elementwise
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    first_count,
    resolve_hyper,
    unless_zero,
)
from purenets.core.optim.internals.order import (
    TURNS,
    with_order,
)
from purenets.core.optim.transforms import add_decayed_weights, chain


def asgd(
    lr: Hyper = 1e-2,
    lambd: Hyper = 1e-4,
    alpha: Hyper = 0.75,
    t0: float = 1e6,
    weight_decay: Hyper = 0,
) -> Optimizer:
    """Return SGD with a decaying rate that also keeps the average of its params.

        eta = lr / (1 + lambd * lr * t)^alpha;  p = (1 - lambd * eta) * p - eta * g

    The average is the entry "ax" of the state; evaluate it by `with_averaged_params`. As in torch,
    the rate of a step is computed in the step before.

    Args:
        lr: the rate of the first step.
        lambd: the decay of the params, and of the rate.
        alpha: the power of the decay of the rate.
        t0: the update after which averaging begins; until then "ax" are the params themselves.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient.

    Returns:
        An optimizer; its state has the entries "eta", "mu" (the weight of the next params in the
        average) and "ax", shaped as the params.

    Raises:
        UserError: one of the arguments is negative or not finite.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.asgd(lr=1.0, lambd=0, t0=1), {"w": np.zeros(1)}
        >>> state = optimizer.init(params)
        >>> for _ in range(4):
        ...     updates, state = optimizer.update({"w": -np.ones(1)}, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> params["w"], optim.get_state(state, "ax")["w"]  # the mean of 3 and 4
        (array([4.]), array([3.5]))

    Source:
        torch.optim.ASGD; Polyak and Juditsky 1992, "Acceleration of stochastic approximation by
        averaging".
    """
    expect_hypers("asgd", NOT_NEGATIVE, lr=lr, lambd=lambd, alpha=alpha, weight_decay=weight_decay)
    expect_numbers("asgd", NOT_NEGATIVE, t0=t0)
    return chain(*unless_zero(weight_decay, add_decayed_weights), _averaged(lr, lambd, alpha, t0))


def _averaged(lr: Hyper, lambd: Hyper, alpha: Hyper, t0: float) -> Optimizer:
    def init(params):
        zero = first_count(params, lr=lr, lambd=lambd, alpha=alpha)["count"]
        number = count_to_dtype(zero, params)
        first = full_like(number, resolve_hyper(lr, {"count": zero}, params))
        return {"count": zero, "eta": first, "mu": number + 1, "ax": copies(params)}

    def update(grads, state, params):
        rate, decay, power = [resolve_hyper(value, state, grads) for value in (lr, lambd, alpha)]
        eta, mu, counts = state["eta"], state["mu"], state["count"] + 1
        updates = tree.map(lambda g, p: -(eta * decay) * p - eta * g, grads, params)
        ax = tree.map(lambda a, p, u: a + mu * (p + u - a), state["ax"], params, updates)
        count = count_to_dtype(counts, grads)
        new = {
            "eta": rate / (1 + decay * rate * count) ** power,
            "mu": 1 / at_least(count - t0, 1.0),
        }
        return updates, {"count": counts, **new, "ax": ax}

    averaged = TURNS._replace(average="asgd")
    return elementwise(with_order(averaged, Optimizer(init, update)))
