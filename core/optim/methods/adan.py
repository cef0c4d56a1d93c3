"""Adan: Adam with Nesterov's momentum, taken from the differences of gradients.

Source: Xie et al. 2022, arXiv 2208.06677; numbers, names and defaults of the authors' package.
"""

from purenets.core import tree
from purenets.core.arguments import (
    DECAY,
    NOT_NEGATIVE,
    expect_flags,
    expect_hypers,
    expect_several,
)
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Optimizer
from purenets.core.optim.internals.arithmetic import (
    bias_correction,
    copies,
    running_mean,
    running_mean_of_squares,
)
from purenets.core.optim.internals.elementwise import elementwise
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    first_count,
    has_schedule,
    init_count,
    is_zero,
    next_count,
    resolve_hyper,
    unless_zero,
)
from purenets.core.optim.internals.order import (
    NORMALIZES,
    TURNS,
    with_order,
)
from purenets.core.optim.internals.precision import any_dtype, real_only, refusing
from purenets.core.optim.transforms import add_decayed_weights, chain, scale_by_learning_rate


def adan(
    lr: Hyper = 1e-3,
    betas=(0.98, 0.92, 0.99),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    proximal: bool = True,
) -> Optimizer:
    """Return Adan: Adam with Nesterov's momentum, estimated from differences of gradients.

    `scale_by_adan` has the formula of its step.

    Args:
        lr: the learning rate, a number or a schedule.
        betas: (b1, b2, b3), the decay rates of the means of g, of its differences, and of squares.
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: decoupled weight decay.
        proximal: after a step of lr divide the params by 1 + lr * weight_decay, as the paper does;
            if False, subtract lr * weight_decay * p in the step, as `adamw` does.

    Returns:
        An optimizer for real params; its state has the entries "exp_avg", "exp_avg_diff",
        "exp_avg_sq" and "previous_grad".

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, betas is not three numbers in
            [0, 1), or proximal is not a bool; from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.adan(lr=0.1), {"w": np.zeros(2)}
        >>> grads = {"w": np.array([100.0, -0.01])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"].round(3)
        array([-0.1,  0.1])

    Source:
        Xie et al. 2022, arXiv 2208.06677; numbers and defaults of the authors' package.
    """
    expect_hypers("adan", NOT_NEGATIVE, lr=lr, weight_decay=weight_decay)
    _expect_adan("adan", betas, eps)
    expect_flags("adan", proximal=proximal)
    if proximal and not is_zero(weight_decay):
        optimizer = chain(scale_by_adan(betas, eps), proximal_step(lr, weight_decay))
    else:
        decay = unless_zero(weight_decay, add_decayed_weights)
        optimizer = chain(scale_by_adan(betas, eps), *decay, scale_by_learning_rate(lr))
    return real_only("adan", optimizer)


def _expect_adan(name: str, betas, eps: Hyper) -> None:
    expect_several(name, ("three decays", (0.98, 0.92, 0.99)), betas=betas)
    for beta in betas:
        expect_hypers(name, DECAY, betas=beta)
    expect_hypers(name, NOT_NEGATIVE, eps=eps)


def scale_by_adan(betas=(0.98, 0.92, 0.99), eps: Hyper = 1e-8) -> Optimizer:
    """Return a transform with the moments of g, of its differences, and of squares a step ahead.

        m: mean of g;  d: mean of g - g';  n: mean of (g + b2 * (g - g'))^2
        updates = (m + b2 * d) / (sqrt(n) + eps)

    Here g' is the gradient before (at the first update g itself), and all means are without their
    bias toward zero.

    Args:
        betas: (b1, b2, b3), the decay rates of m, d and n.
        eps: added to the root, so that nothing is divided by 0.

    Returns:
        A transform for `chain`; its state has the entries "exp_avg", "exp_avg_diff", "exp_avg_sq"
        and "previous_grad".

    Raises:
        UserError: betas is not three numbers in [0, 1), or eps is negative or not finite; from
            `init`: a leaf is complex.

    Example:
        The first update is the sign of the gradient.

        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_adan(), {"w": np.array([100.0, -0.01])}
        >>> updates, _ = transform.update(grads, transform.init(grads), grads)
        >>> updates["w"].round(3)
        array([ 1., -1.])

    Source:
        Xie et al. 2022, arXiv 2208.06677.
    """
    _expect_adan("scale_by_adan", betas, eps)
    names = ("exp_avg", "exp_avg_diff", "exp_avg_sq", "previous_grad")

    def init(params):
        means = {name: tree.zeros_like(params) for name in names}
        return {**first_count(params, betas=betas, eps=eps), **means}

    def update(grads, state, params):
        b1, b2, b3, e = [resolve_hyper(value, state, grads) for value in (*betas, eps)]
        counts = next_count(state)
        count, first = count_to_dtype(counts["count"], grads), state["count"] == 0
        diff = tree.map(
            lambda g, old: namespace(g).where(first, namespace(g).zeros_like(g), g - old),
            grads,
            state["previous_grad"],
        )
        m = running_mean(b1, state["exp_avg"], grads)
        d = running_mean(b2, state["exp_avg_diff"], diff)
        ahead = tree.map(lambda g, change: g + b2 * change, grads, diff)
        n = running_mean_of_squares(b3, state["exp_avg_sq"], ahead)
        c1, c2, c3 = (bias_correction(b, count) for b in (b1, b2, b3))
        updates = tree.map(
            lambda m, d, n: (m / c1 + d * (b2 / c2)) / (sqrt(n) / c3**0.5 + e), m, d, n
        )
        return updates, {**counts, **dict(zip(names, (m, d, n, copies(grads)), strict=True))}

    scale = with_order(NORMALIZES, Optimizer(init, update))
    return elementwise(any_dtype(scale, refusing("scale_by_adan", scale)))


def proximal_step(lr: Hyper, weight_decay: Hyper) -> Optimizer:
    """Return a transform for the step from p to (p - lr * g) / (1 + lr * weight_decay).

    It stands at the end of a chain, in place of `add_decayed_weights` and
    `scale_by_learning_rate`. Weight decay acts on the params after the step, and shrinks them for
    every lr, however large.

    Args:
        lr: the learning rate, a number or a schedule.
        weight_decay: the decay of the params.

    Returns:
        A transform for `chain`; its state is empty, or has a "count" if an argument is a schedule.

    Raises:
        UserError: lr or weight_decay is negative or not finite.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> transform = optim.proximal_step(lr=0.5, weight_decay=2.0)
        >>> params, grads = {"w": np.array([3.0])}, {"w": np.array([2.0])}
        >>> updates, _ = transform.update(grads, transform.init(params), params)
        >>> optim.apply_updates(params, updates)["w"]  # (3 - 0.5 * 2) / (1 + 0.5 * 2)
        array([1.])

    Source:
        Xie et al. 2022, arXiv 2208.06677, algorithm 1.
    """
    hypers = {"lr": lr, "weight_decay": weight_decay}
    expect_hypers("proximal_step", NOT_NEGATIVE, **hypers)
    counts = has_schedule(lr, weight_decay)

    def update(grads, state, params):
        rate, decay = (resolve_hyper(value, state, grads) for value in (lr, weight_decay))
        pull = rate * decay
        updates = tree.map(lambda g, p: -(rate * g + pull * p) / (1 + pull), grads, params)
        return updates, next_count(state, counts)

    step = Optimizer(lambda params: init_count(params, **hypers), update)
    return elementwise(with_order(TURNS._replace(penalizes=not is_zero(weight_decay)), step))
