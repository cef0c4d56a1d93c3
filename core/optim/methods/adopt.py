"""ADOPT: Adam that converges with any second decay, since a gradient is divided by the root of the
squares before it.

Source: Taniguchi et al. 2024, arXiv 2411.02853; numbers, names and defaults of the authors'
implementation.
"""

from purenets.core import tree
from purenets.core.arguments import NOT_NEGATIVE, expect_betas, expect_flags, expect_hypers
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Optimizer
from purenets.core.optim.internals.arithmetic import add_square, at_least, lerp
from purenets.core.optim.internals.elementwise import elementwise
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    first_count,
    resolve_hyper,
    unless_zero,
)
from purenets.core.optim.internals.kinds import with_kind
from purenets.core.optim.internals.order import NORMALIZES, with_order
from purenets.core.optim.internals.precision import any_dtype, real_only, refusing
from purenets.core.optim.transforms import add_decayed_weights, chain, scale_by_learning_rate
from purenets.core.optim.wrappers import skip_first


def adopt(
    lr: Hyper = 1e-3,
    betas=(0.9, 0.9999),
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0,
    decoupled_weight_decay: bool = False,
    clip: bool = True,
) -> Optimizer:
    """Return ADOPT: Adam whose gradient is divided by the root of the squares before it.

    So it converges for every b2. The first gradient only begins the mean of squares: the first
    update is 0.

    Args:
        lr: the learning rate, a number or a schedule.
        betas: (b1, b2), the decay rates of the means of the scaled gradient and of g^2.
        eps: the smallest root to divide by.
        weight_decay: L2 penalty, added to the gradient; decoupled weight decay if
            decoupled_weight_decay.
        decoupled_weight_decay: subtract lr * weight_decay * p in the step, as `adamw` does.
        clip: clip the elements of the scaled gradient to [-t^(1/4), t^(1/4)] at update t, counted
            from 0.

    Returns:
        An optimizer for real params; its state has the entries "exp_avg" and "exp_avg_sq".

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, betas is not a pair of numbers
            in [0, 1), or a flag is not a bool; from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.adopt(lr=0.1), {"w": np.zeros(2)}
        >>> state, grads = optimizer.init(params), {"w": np.array([3.0, -0.5])}
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(grads, state, params)
        >>> updates["w"].round(3)  # of the second update: lr * (1 - b1)
        array([-0.01,  0.01])

    Source:
        Taniguchi et al. 2024, arXiv 2411.02853; numbers and defaults of the authors' code.
    """
    expect_hypers("adopt", NOT_NEGATIVE, lr=lr, weight_decay=weight_decay, eps=eps)
    expect_betas("adopt", betas)
    expect_flags("adopt", decoupled_weight_decay=decoupled_weight_decay, clip=clip)
    decay, scale = unless_zero(weight_decay, add_decayed_weights), scale_by_adopt(betas, eps, clip)
    parts = (scale, *decay) if decoupled_weight_decay else (*decay, scale)
    optimizer = chain(skip_first(chain(*parts)), scale_by_learning_rate(lr))
    return real_only("adopt", optimizer)


def scale_by_adopt(betas=(0.9, 0.9999), eps: Hyper = 1e-6, clip: bool = True) -> Optimizer:
    """Return a transform that averages gradients divided by the root of the squares before them.

        m = b1 * m + (1 - b1) * g / max(sqrt(v), eps);  then v = b2 * v + (1 - b2) * g^2

    The updates are m. The first gradient only begins v: the first update is 0.

    Args:
        betas: (b1, b2), the decay rates of m and v.
        eps: the smallest root to divide by.
        clip: clip the elements of the scaled gradient to [-t^(1/4), t^(1/4)] at update t, counted
            from 0.

    Returns:
        A transform for `chain`; its state has the entries "exp_avg" (m), "exp_avg_sq" (v), and
        "adopt", which holds no array and tells the state from Adam's.

    Raises:
        UserError: betas is not a pair of numbers in [0, 1), eps is negative or not finite, or clip
            is not a bool; from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_adopt(), {"w": np.array([3.0, -0.5])}
        >>> first, state = transform.update(grads, transform.init(grads), grads)
        >>> second, state = transform.update(grads, state, grads)
        >>> first["w"], second["w"].round(3)
        (array([0., 0.]), array([ 0.1, -0.1]))

    Source:
        Taniguchi et al. 2024, arXiv 2411.02853.
    """
    expect_betas("scale_by_adopt", betas)
    expect_hypers("scale_by_adopt", NOT_NEGATIVE, eps=eps)
    expect_flags("scale_by_adopt", clip=clip)

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("exp_avg", "exp_avg_sq")}
        return {**first_count(params, betas=betas, eps=eps), **means}

    def update(grads, state, params):
        b1, b2, e = [resolve_hyper(value, state, grads) for value in (*betas, eps)]
        first, limit = state["count"] == 0, count_to_dtype(state["count"], grads) ** 0.25

        def leaf(m, v, g):
            xp = namespace(g)
            scaled = g / at_least(sqrt(v), e)
            scaled = xp.clip(scaled, -limit, limit) if clip else scaled
            m = xp.where(first, m, lerp(m, scaled, 1 - b1))
            return m, xp.where(first, g * g, add_square(b2 * v, g, 1 - b2))

        m, v = tree.map_to_several(leaf, 2, state["exp_avg"], state["exp_avg_sq"], grads)
        return m, {"count": state["count"] + 1, "exp_avg": m, "exp_avg_sq": v}

    scale = with_order(NORMALIZES, with_kind("adopt", Optimizer(init, update)))
    return elementwise(any_dtype(scale, refusing("scale_by_adopt", scale)))
