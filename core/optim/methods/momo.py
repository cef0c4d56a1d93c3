"""MoMo: momentum with a step size from a model of the loss.

The running means of loss and gradient are a linear model of the loss, which cannot fall under a
known lower bound: the step ends where the model reaches the bound, or after the given rate.

Source: Schaipp et al. 2023, arXiv 2305.07583; numbers, names and defaults of the authors' package.
"""

from purenets.core import tree
from purenets.core.arguments import (
    DECAY,
    FINITE,
    NOT_NEGATIVE,
    expect_betas,
    expect_flags,
    expect_hypers,
    expect_numbers,
)
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.arithmetic import (
    at_least,
    at_most,
    bias_correction,
    dot,
    lerp,
    nonzero,
    running_mean_of_squares,
)
from purenets.core.optim.internals.extra_args import loss_value
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    first_count,
    is_zero,
    resolve_hyper,
    zero_count,
)
from purenets.core.optim.internals.order import TURNS, with_order
from purenets.core.optim.internals.precision import any_dtype, real_only


def momo(
    lr: Hyper = 1.0,
    beta: Hyper = 0.9,
    weight_decay: Hyper = 0,
    lb: float = 0.0,
    bias_correction: bool = False,
    use_fstar: bool = False,
) -> Optimizer:
    """Return MoMo: SGD with momentum whose rate adapts to how far the loss is from a lower bound.

    Running means of loss and gradient make a linear model of the loss. The rate is the one at
    which this model reaches the bound, or lr if that is smaller.

    Args:
        lr: the largest rate.
        beta: the decay rate of the means of loss and gradient.
        weight_decay: the params are divided by 1 + lr * weight_decay after a step.
        lb: a lower bound of the loss.
        bias_correction: begin the means at 0 and correct for it; if False, they begin with the
            first loss and gradient.
        use_fstar: raise the lower bound to an estimate of the smallest loss.

    Returns:
        An optimizer for real params. Its `update` needs the loss as `value` (`make_step` passes
        it); its state has the entries "loss_avg", "grad_avg", "grad_dot_w" and "lb".

    Raises:
        UserError: lr or weight_decay is negative or not finite, beta is not in [0, 1), lb is not
            finite, or a flag is not a bool; from `init`: a leaf is complex; from `update`: value is
            missing.

    Example:
        For the loss w^2 / 2 at w = 2 the first rate is 2 / 2^2, far below lr.

        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.momo(lr=1.0), {"w": np.array([2.0])}
        >>> state, grads = optimizer.init(params), {"w": np.array([2.0])}
        >>> updates, _ = optimizer.update(grads, state, params, value=2.0)
        >>> updates["w"]
        array([-1.])

    Source:
        Schaipp et al. 2023, arXiv 2305.07583; numbers and defaults of the authors' package.
    """
    expect_hypers("momo", DECAY, beta=beta)
    expect_flags("momo", bias_correction=bias_correction, use_fstar=use_fstar)
    return _momo("momo", lr, (beta, None), 0.0, weight_decay, lb, bias_correction, True, use_fstar)


def momo_adam(
    lr: Hyper = 1e-2,
    betas=(0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    lb: float = 0.0,
    divide: bool = True,
    use_fstar: bool = False,
) -> Optimizer:
    """Return MoMo-Adam: Adam whose rate adapts to how far the loss is from a lower bound.

    Running means of loss and gradient make a linear model of the loss. The rate is the one at
    which this model reaches the bound, or lr if that is smaller.

    Args:
        lr: the largest rate.
        betas: (b1, b2), the decay rates of the means of loss and gradient, and of g^2.
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: the params are divided by 1 + lr * weight_decay after a step, if `divide`.
        lb: a lower bound of the loss.
        divide: if False, multiply by 1 - lr * weight_decay before the step, as `adamw` does.
        use_fstar: raise the lower bound to an estimate of the smallest loss.

    Returns:
        An optimizer for real params. Its `update` needs the loss as `value` (`make_step` passes
        it); its state has the entries "loss_avg", "grad_avg", "grad_avg_sq", "grad_dot_w" and "lb".

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, betas is not a pair of numbers
            in [0, 1), lb is not finite, or a flag is not a bool; from `init`: a leaf is complex;
            from `update`: value is missing.

    Example:
        A step is lr long far from the bound, and shorter near it.

        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.momo_adam(lr=0.01), {"w": np.array([2.0])}
        >>> state, grads = optimizer.init(params), {"w": np.array([2.0])}
        >>> far, _ = optimizer.update(grads, state, params, value=2.0)
        >>> near, _ = optimizer.update(grads, state, params, value=0.01)
        >>> far["w"].round(4), near["w"].round(4)
        (array([-0.01]), array([-0.005]))

    Source:
        Schaipp et al. 2023, arXiv 2305.07583; numbers and defaults of the authors' package.
    """
    expect_betas("momo_adam", betas)
    expect_flags("momo_adam", divide=divide, use_fstar=use_fstar)
    return _momo("momo_adam", lr, betas, eps, weight_decay, lb, True, divide, use_fstar)


def _momo(
    name: str,
    lr: Hyper,
    betas: tuple,
    eps: Hyper,
    weight_decay: Hyper,
    lb: float,
    corrected: bool,
    divide: bool,
    use_fstar: bool,
) -> Optimizer:
    """Return MoMo in the norm of Adam's roots, or in the Euclidean one if betas[1] is None."""
    beta, beta2 = betas
    adaptive = beta2 is not None
    expect_hypers(name, NOT_NEGATIVE, lr=lr, eps=eps, weight_decay=weight_decay)
    expect_numbers(name, FINITE, lb=lb)

    def init(params):
        number = count_to_dtype(zero_count(params), params)
        squares = {"grad_avg_sq": tree.zeros_like(params)} if adaptive else {}
        means = {"loss_avg": number, "grad_dot_w": number, "grad_avg": tree.zeros_like(params)}
        counts = first_count(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        return {**counts, "lb": number + lb, **means, **squares}

    def update(grads, state, params, *, value=None, value_and_grad_fn=None):
        loss = loss_value(name, value, value_and_grad_fn, params)
        rate, b1, decay = [resolve_hyper(hyper, state, grads) for hyper in (lr, beta, weight_decay)]
        rho, new = _averages(loss, grads, state, params, b1, corrected)
        step, squares = _rooted(new["grad_avg"], grads, state, beta2, eps)
        length, shrink = dot(new["grad_avg"], step), 1 + rate * decay
        slope = dot(params, new["grad_avg"])
        model = shrink * (new["loss_avg"] - new["grad_dot_w"]) + slope
        bound = 0 * state["lb"] + lb  # as it is now: `set_hyperparams` may have changed it
        if use_fstar:
            bound = _reset(state["lb"], model, shrink * rho, lb)
        tau = at_least(model - shrink * rho * bound, 0.0) / nonzero(length)
        tau = at_most(tau, rate / rho)
        if use_fstar:
            reached = new["loss_avg"] + slope - new["grad_dot_w"] - tau * length / 2
            bound = at_least(reached / rho, lb)
        moves = _moves(step, tau, rate * decay, params, divide)
        return moves, {**new, **squares, "lb": bound}

    order = TURNS._replace(penalizes=not is_zero(weight_decay))
    return real_only(name, any_dtype(with_order(order, Optimizer(init, update))))


def _averages(
    loss: Array, grads: Params, state: dict, params: Params, b1: Array, corrected: bool
) -> tuple[Array, dict]:
    """Return the sum of the weights of all losses, and the means of loss and gradient."""
    xp, count = namespace(loss), state["count"] + 1
    one = xp.ones_like(loss)
    rho = bias_correction(b1, count_to_dtype(count, grads)) if corrected else one
    weight = 1 - b1 if corrected else xp.where(count == 1, one, one * (1 - b1))
    mean = lerp(state["loss_avg"], loss, weight)
    gamma = lerp(state["grad_dot_w"], dot(params, grads), weight)
    d = tree.map(lambda m, g: lerp(m, g, weight), state["grad_avg"], grads)
    return rho, {"count": count, "loss_avg": mean, "grad_dot_w": gamma, "grad_avg": d}


def _rooted(
    mean: Params, grads: Params, state: dict, beta2: Hyper | None, eps: Hyper
) -> tuple[Params, dict]:
    """Return the mean gradient divided by Adam's roots, and their state; as it is without beta2."""
    if beta2 is None:
        return mean, {}
    b2, e = resolve_hyper(beta2, state, grads), resolve_hyper(eps, state, grads)
    squares = running_mean_of_squares(b2, state["grad_avg_sq"], grads)
    correction = bias_correction(b2, count_to_dtype(state["count"] + 1, grads))
    step = tree.map(lambda m, v: m / (sqrt(v / correction) + e), mean, squares)
    return step, {"grad_avg_sq": squares}


def _reset(bound: Array, model: Array, scale: Array, lb: float) -> Array:
    """Return the lower bound, lowered where the model lies under it."""
    lower = at_least(model / (2 * scale), lb)
    return namespace(bound).where(model < scale * bound, lower, bound)


def _moves(step: Params, tau: Array, pull: Array, params: Params, divide: bool) -> Params:
    """Return the updates: a step of length tau, and the decay."""
    if divide:
        return tree.map(lambda s, p: -(tau * s + pull * p) / (1 + pull), step, params)
    return tree.map(lambda s, p: -tau * s - pull * p, step, params)
