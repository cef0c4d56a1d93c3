"""DoG: SGD that finds its learning rate, the distance from the first params over the gradients.

Numbers, names and defaults are those of the authors' package.

Source: Ivgi et al. 2023, arXiv 2302.12022.
"""

from purenets.core import tree
from purenets.core.arguments import (
    NOT_NEGATIVE,
    POSITIVE,
    expect_flags,
    expect_hypers,
    expect_numbers,
)
from purenets.core.arrays import sqrt
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.arithmetic import copies, full_like, maximum
from purenets.core.optim.internals.hyper import (
    Hyper,
    has_schedule,
    init_count,
    next_count,
    resolve_hyper,
    unless_zero,
)
from purenets.core.optim.internals.order import TURNS, with_order
from purenets.core.optim.internals.precision import any_dtype, real_only
from purenets.core.optim.transforms import add_decayed_weights, chain


def dog(
    lr: Hyper = 1.0,
    reps_rel: float = 1e-6,
    eps: float = 1e-8,
    weight_decay: Hyper = 0,
    layerwise: bool = False,
) -> Optimizer:
    """Return DoG, SGD whose rate is distance over gradients, so that none has to be tuned.

        rate = max |p_i - p_0| / sqrt(sum |g_i|^2),  over all updates i so far

    The rate does not decay: evaluate an average of the params (`ema`, `swa`).

    Args:
        lr: a factor of the rate; leave it at 1.
        reps_rel: the first distance, relative to 1 + |p_0|; 1e-4 with batch normalization.
        eps: added to the sum of squares.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient.
        layerwise: a rate of its own for each leaf (LDoG).

    Returns:
        An optimizer for real params; its state has the entries "rbar" (the distance), "sum" and
        "p0".

    Raises:
        UserError: lr or weight_decay is negative or not finite, reps_rel or eps is not a finite
            number above 0, or layerwise is not a bool; from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.dog(), {"w": np.zeros(2)}
        >>> state = optimizer.init(params)
        >>> for _ in range(300):
        ...     grads = {"w": params["w"] - 10.0}  # of the loss |w - 10|^2 / 2
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> params["w"].round(2)
        array([10., 10.])
        >>> print(optim.get_state(state, "rbar")["all"].round(2))  # 10 * sqrt(2)
        14.14

    Source:
        Ivgi et al. 2023, arXiv 2302.12022; numbers and defaults of the authors' package.
    """
    expect_hypers("dog", NOT_NEGATIVE, lr=lr, weight_decay=weight_decay)
    expect_numbers("dog", POSITIVE, reps_rel=reps_rel, eps=eps)
    expect_flags("dog", layerwise=layerwise)

    def measured(leaves: Params) -> dict[str, Array]:
        """Return the norm of each leaf, or of all together."""
        if layerwise:
            return {name: tree.norm({name: leaf}) for name, leaf in leaves.items()}
        return {"all": tree.norm(leaves)}

    counts = has_schedule(lr)

    def init(params):
        sizes = measured(params)
        return {
            **init_count(params, lr=lr),
            "rbar": {name: reps_rel * (1 + size) for name, size in sizes.items()},
            "sum": {name: full_like(size, eps) for name, size in sizes.items()},
            "p0": copies(params),
        }

    def update(grads, state, params):
        rate = resolve_hyper(lr, state, grads)
        way = measured(tree.map(lambda p, first: p - first, params, state["p0"]))
        rbar = tree.map(maximum, state["rbar"], way)
        total = tree.map(lambda s, norm: s + norm * norm, state["sum"], measured(grads))
        etas = tree.map(lambda r, s: rate * r / sqrt(s), rbar, total)
        updates = {n: -etas[n if layerwise else "all"] * g for n, g in grads.items()}
        return updates, {**next_count(state, counts), "rbar": rbar, "sum": total, "p0": state["p0"]}

    decay = unless_zero(weight_decay, add_decayed_weights)
    return real_only("dog", chain(*decay, any_dtype(with_order(TURNS, Optimizer(init, update)))))


dog.only_at_init = ("reps_rel", "eps")
