"""Transforms: the small parts, pairs of functions, that optimizers are chains of.

A transform is an `Optimizer`: `init(params) -> state` and `update(grads, state, params) ->
(updates, state)`. It serves NumPy arrays and torch tensors alike. A hyper-parameter (`Hyper`) is a
number, a schedule or a scalar array. Entries of the states have the names of torch.optim.
"""

from collections.abc import Callable

from purenets.core import tree
from purenets.core.arguments import (
    ABOVE_0,
    DECAY,
    FRACTION,
    NOT_NEGATIVE,
    expect_betas,
    expect_call,
    expect_flags,
    expect_hypers,
    expect_numbers,
    expect_optimizers,
    shown,
)
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Array, Optimizer, Params, UserError
from purenets.core.optim.internals.arithmetic import (
    add_square,
    at_least,
    bias_correction,
    divided_by_root,
    lerp,
    maximum,
    moments,
    running_mean,
    running_mean_of_squares,
    scaled,
    sign,
)
from purenets.core.optim.internals.elementwise import (
    advance_fn,
    elementwise,
    is_elementwise,
    on_leaves,
)
from purenets.core.optim.internals.extra_args import takes_extra_args, with_extra_args
from purenets.core.optim.internals.hyper import (
    Hyper,
    as_numbers,
    count_as_float,
    count_to_dtype,
    first_count,
    first_leaf,
    has_schedule,
    init_count,
    is_zero,
    next_count,
    resolve_hyper,
    stateless_with_hyper,
    zero_count,
)
from purenets.core.optim.internals.kinds import with_kind
from purenets.core.optim.internals.order import (
    DECAYS,
    KEEPS,
    NORMALIZES,
    TURNS,
    order_in_sequence,
    own_after_rates,
    with_order,
)
from purenets.core.optim.internals.precision import (
    any_dtype,
    are_full,
    for_full,
    in_pairs,
    refusing,
    widened_leaves,
    widened_params,
)
from purenets.core.optim.internals.trial import (
    expect_rates_kept,
    returning_pairs,
)

# --- composition ----------------------------------------------------------------------------------


def chain(*transforms: Optimizer) -> Optimizer:
    """Return the optimizer that applies transforms in order, each to the updates of the one before.

    End it with `scale_by_learning_rate` or a whole optimizer: until then the updates still point
    uphill. Behind it come clipping of the updates and `reduce_on_plateau`, and last the averages of
    the params, `ema` and `swa`. A chain of nothing passes the gradients through.

    Args:
        transforms: the optimizers to apply, first to last.

    Returns:
        An optimizer whose state has the entries "0", "1", ..., the states of the transforms. It is
        `elementwise` if all transforms are, and takes `value` and `value_and_grad_fn` if one does.

    Raises:
        UserError: one of the transforms is not an Optimizer, an average of the params (`ema`,
            `swa`) is not last, weight decay is added to updates that point downhill, updates are
            turned downhill twice, a rate stands before what divides it out, or a line search after
            what changes the gradient.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(lr=0.1))
        >>> grads = {"w": np.array([30.0, 40.0])}
        >>> updates, state = optimizer.update(grads, optimizer.init(grads), grads)
        >>> updates["w"]
        array([-0.06, -0.08])
        >>> list(state)
        ['0', '1']

    Source:
        optax.chain.
    """
    expect_optimizers("chain", **{f"transform_{i}": part for i, part in enumerate(transforms)})
    order = order_in_sequence(transforms)
    named = {str(i): transform for i, transform in enumerate(transforms)}
    together = all(map(is_elementwise, transforms))
    takes_more = any(takes_extra_args(transform.update) for transform in transforms)
    inner = {
        name: on_leaves(t) if together else returning_pairs(f"chain: transform_{name}", t)
        for name, t in named.items()
    }
    if takes_more:
        inner = {name: with_extra_args(update) for name, update in inner.items()}

    after_rates = own_after_rates(transforms)

    def init(params):
        expect_rates_kept(transforms, after_rates, params)
        return {name: transform.init(params) for name, transform in named.items()}

    # The chain looks at the dtypes once, for all of its parts.
    any_leaves = Optimizer(init, _in_sequence(inner, takes_more))
    full_only = Optimizer(
        init, _in_sequence({n: for_full(u) for n, u in inner.items()}, takes_more)
    )
    optimizer = with_order(order, any_dtype(full_only, any_leaves))
    if together:
        return elementwise(optimizer)
    if not takes_more:
        optimizer.update.advance = _advance_last(named, advance_fn(transforms[-1]))
    return optimizer


def _in_sequence(updates: dict[str, Callable], takes_more: bool) -> Callable:
    """Return the update that applies one after the other, each to the updates of that before."""

    def update(grads, state, params):
        new_state = {}
        for name, inner_update in updates.items():
            grads, new_state[name] = inner_update(grads, state[name], params)
        return grads, new_state

    def update_with_loss(grads, state, params, **extra):
        new_state = {}
        for name, inner_update in updates.items():
            grads, new_state[name] = inner_update(grads, state[name], params, **extra)
        return grads, new_state

    return update_with_loss if takes_more else update


def _advance_last(named: dict[str, Optimizer], advance: Callable) -> Callable:
    """Return the update of a chain together with its application, which is that of the last
    transform.
    """
    *others, last = named

    def advance_chain(grads, state, params):
        new_state, wide = {}, params
        if not (are_full(grads) and are_full(params)):
            grads, wide = widened_leaves(grads), widened_params(params)
        for name in others:
            grads, new_state[name] = named[name].update(grads, state[name], wide)
        params, new_state[last] = advance(grads, state[last], params)
        return params, new_state

    return advance_chain


def stateless(f: Callable[[Params, Params], Params]) -> Optimizer:
    """Return a transform without a state from a function of gradients and params.

    Args:
        f: `f(grads, params) -> updates`, dicts of the same names and shapes.

    Returns:
        A transform for `chain`; its state is empty.

    Raises:
        UserError: f is not a function of two arguments; from `update`: f returns no dict.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> cube = optim.stateless(lambda grads, params: {n: g**3 for n, g in grads.items()})
        >>> grads = {"w": np.array([1.0, -2.0])}
        >>> updates, _ = cube.update(grads, cube.init(grads), grads)
        >>> updates["w"]
        array([ 1., -8.])

    Source:
        optax.stateless.
    """
    expect_call("stateless", ("grads", "params"), f=f)

    def update(grads, state, params):
        updates = f(grads, params)
        if not isinstance(updates, dict):
            raise UserError(f"stateless: f returns {shown(updates)}, needs a dict of updates")
        return updates, {}

    return any_dtype(Optimizer(lambda params: {}, update))


# --- transforms -----------------------------------------------------------------------------------


def scale_by_learning_rate(lr: Hyper) -> Optimizer:
    """Return a transform that multiplies by -lr: the last part of most chains.

    Args:
        lr: the learning rate, a number or a schedule.

    Returns:
        A transform for `chain`; its state is empty, or has a "count" if lr is a schedule.

    Raises:
        UserError: lr is negative or not finite.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> descent = optim.scale_by_learning_rate(0.1)
        >>> grads = {"w": np.array([1.0, -2.0])}
        >>> updates, _ = descent.update(grads, descent.init(grads), grads)
        >>> updates["w"]
        array([-0.1,  0.2])

    Source:
        optax.scale_by_learning_rate.
    """
    expect_hypers("scale_by_learning_rate", NOT_NEGATIVE, lr=lr)
    descent = stateless_with_hyper(lambda lr, grads, params: scaled(grads, -lr), lr=lr)
    return elementwise(with_order(TURNS, descent))


def add_decayed_weights(weight_decay: Hyper) -> Optimizer:
    """Return a transform that adds weight_decay * p to the updates.

    Before the moments of a chain this is an L2 penalty, as in `adam`; after them and before
    `scale_by_learning_rate` it is decoupled weight decay, as in `adamw`. Use `masked` to leave
    biases out.

    Args:
        weight_decay: the factor of the params, a number or a schedule.

    Returns:
        A transform for `chain`; its state is empty, or has a "count" if weight_decay is a schedule.

    Raises:
        UserError: weight_decay is negative or not finite.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> decay = optim.add_decayed_weights(0.01)
        >>> params, grads = {"w": np.array([10.0])}, {"w": np.array([1.0])}
        >>> updates, _ = decay.update(grads, decay.init(params), params)
        >>> updates["w"]
        array([1.1])

    Source:
        optax.add_decayed_weights.
    """
    expect_hypers("add_decayed_weights", NOT_NEGATIVE, weight_decay=weight_decay)

    def add(weight_decay, grads, params):
        return tree.map(lambda g, p: g + weight_decay * p, grads, params)

    return elementwise(with_order(DECAYS, stateless_with_hyper(add, weight_decay=weight_decay)))


def clip_by_value(limit: Hyper) -> Optimizer:
    """Return a transform that clips every element of the updates to [-limit, limit].

    The direction changes; `clip_by_global_norm` keeps it.

    Args:
        limit: the largest absolute value.

    Returns:
        A transform for `chain`; its state is empty, or has a "count" if limit is a schedule.

    Raises:
        UserError: limit is not above 0; from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> clip = optim.clip_by_value(1.0)
        >>> grads = {"w": np.array([-3.0, 0.5, 2.0])}
        >>> updates, _ = clip.update(grads, clip.init(grads), grads)
        >>> updates["w"]
        array([-1. ,  0.5,  1. ])

    Source:
        torch.nn.utils.clip_grad_value_.
    """
    expect_hypers("clip_by_value", ABOVE_0, limit=limit)

    def clip(limit, grads, params):
        return tree.map(lambda g: namespace(g).clip(g, -limit, limit), grads)

    clipped = with_order(KEEPS, stateless_with_hyper(clip, limit=limit))
    return elementwise(any_dtype(clipped, refusing("clip_by_value", clipped)))


def clip_by_global_norm(max_norm: Hyper) -> Optimizer:
    """Return a transform that scales the updates so that their global norm is at most max_norm.

    All leaves are scaled by the same factor, so the direction stays. The bound is exact;
    torch.nn.utils.clip_grad_norm_ divides by the norm + 1e-6. As there, updates become 0 where
    their norm overflows (elements of float32 above 1.8e19).

    Args:
        max_norm: the largest Euclidean norm of all leaves together.

    Returns:
        A transform for `chain`; its state is empty, or has a "count" if max_norm is a schedule.

    Raises:
        UserError: max_norm is not above 0.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> clip = optim.clip_by_global_norm(1.0)
        >>> grads = {"w": np.array([3.0, 4.0])}
        >>> updates, _ = clip.update(grads, clip.init(grads), grads)
        >>> updates["w"]
        array([0.6, 0.8])

    Source:
        Pascanu et al. 2013, arXiv 1211.5063.
    """
    expect_hypers("clip_by_global_norm", ABOVE_0, max_norm=max_norm)

    def clip(max_norm, grads, params):
        norm = tree.norm(grads)
        xp, over = namespace(norm), norm > max_norm
        # The inner `where`: a norm of 0 must not be divided by, in the backward pass either.
        factor = xp.where(over, max_norm / xp.where(over, norm, 1.0), 1.0)
        return scaled(grads, factor)

    return any_dtype(with_order(KEEPS, stateless_with_hyper(clip, max_norm=max_norm)))


def trace(momentum: Hyper, dampening: Hyper = 0, nesterov: bool = False) -> Optimizer:
    """Return a transform that replaces the gradient by its momentum buffer.

        buf = momentum * buf + (1 - dampening) * g

    The updates are buf, or g + momentum * buf with Nesterov's momentum. The first buffer is g
    itself, not dampened.

    Args:
        momentum: the decay rate of the buffer, from 0 to 1.
        dampening: the fraction of later gradients that is left out, from 0 to 1.
        nesterov: use Nesterov's momentum.

    Returns:
        A transform for `chain`; its state has the entry "momentum_buffer", shaped as the params.

    Raises:
        UserError: momentum or dampening is not in [0, 1], or nesterov is not a bool.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.trace(momentum=0.9), {"w": np.array([1.0])}
        >>> state = transform.init(grads)
        >>> for _ in range(3):
        ...     updates, state = transform.update(grads, state, grads)
        >>> updates["w"]  # 1 + 0.9 + 0.9^2
        array([2.71])

    Source:
        torch.optim.SGD; Sutskever et al. 2013, "On the importance of initialization and momentum
        in deep learning".
    """
    expect_hypers("trace", FRACTION, momentum=momentum, dampening=dampening)
    expect_flags("trace", nesterov=nesterov)
    damped = not is_zero(dampening)
    counts = damped or has_schedule(momentum)

    def init(params):
        hypers = {"momentum": momentum, "dampening": dampening}
        counter = (first_count if damped else init_count)(params, **hypers)
        return {**counter, "momentum_buffer": tree.zeros_like(params)}

    def update(grads, state, params):
        decay, fresh = resolve_hyper(momentum, state, grads), grads
        if damped:
            xp, count = namespace(state["count"]), count_to_dtype(state["count"], grads)
            fresh = scaled(
                grads,
                xp.where(
                    count == 0, xp.ones_like(count), 1 - resolve_hyper(dampening, state, grads)
                ),
            )
        buffer = tree.map(lambda buf, g: decay * buf + g, state["momentum_buffer"], fresh)
        updates = tree.map(lambda g, buf: g + decay * buf, grads, buffer) if nesterov else buffer
        return updates, {**next_count(state, counts), "momentum_buffer": buffer}

    return elementwise(with_order(KEEPS, Optimizer(init, update)))


def scale_by_rms(alpha: Hyper = 0.99, eps: Hyper = 1e-8, centered: bool = False) -> Optimizer:
    """Return a transform that divides the gradient by the root of its running mean square.

        v = alpha * v + (1 - alpha) * g^2;  updates = g / (sqrt(v) + eps)

    Args:
        alpha: the decay rate of the running mean, in [0, 1).
        eps: added to the root, so that nothing is divided by 0.
        centered: subtract the squared running mean of g from v, so that v is a variance.

    Returns:
        A transform for `chain`; its state has the entry "square_avg", and "grad_avg" if centered.

    Raises:
        UserError: alpha is not in [0, 1), eps is negative or not finite, or centered is not a bool.

    Example:
        The first update has the size 1 / sqrt(1 - alpha), whatever the size of the gradient.

        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_rms(alpha=0.75), {"w": np.array([100.0, -0.01])}
        >>> updates, _ = transform.update(grads, transform.init(grads), grads)
        >>> updates["w"].round(3)
        array([ 2., -2.])

    Source:
        torch.optim.RMSprop; centered: Graves 2013, arXiv 1308.0850.
    """
    expect_hypers("scale_by_rms", DECAY, alpha=alpha)
    expect_hypers("scale_by_rms", NOT_NEGATIVE, eps=eps)
    expect_flags("scale_by_rms", centered=centered)
    counts = has_schedule(alpha, eps)

    def init(params):
        means = {"square_avg": tree.zeros_like(params)}
        means |= {"grad_avg": tree.zeros_like(params)} if centered else {}
        return {**init_count(params, alpha=alpha, eps=eps), **means}

    def update(grads, state, params):
        a, e = resolve_hyper(alpha, state, grads), resolve_hyper(eps, state, grads)
        square = running_mean_of_squares(a, state["square_avg"], grads)
        means, variance = {"square_avg": square}, square
        if centered:
            means["grad_avg"] = running_mean(a, state["grad_avg"], grads)
            # rounding may leave less than 0, whose root is NaN
            variance = tree.map(lambda v, m: at_least(v - m * m, 0.0), square, means["grad_avg"])
        return divided_by_root(grads, variance, e), {**next_count(state, counts), **means}

    return elementwise(in_pairs(with_order(NORMALIZES, Optimizer(init, update))))


def scale_by_sum_of_squares(initial: float = 0, eps: Hyper = 1e-10) -> Optimizer:
    """Return a transform that divides the gradient by the root of the sum of all its squares.

        s = s + g^2;  updates = g / (sqrt(s) + eps)

    Args:
        initial: the value that the sums begin with.
        eps: added to the root, so that nothing is divided by 0.

    Returns:
        A transform for `chain`; its state has the entry "sum", shaped as the params.

    Raises:
        UserError: initial or eps is negative or not finite.

    Example:
        For a constant gradient the t-th update is 1 / sqrt(t).

        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_sum_of_squares(), {"w": np.array([3.0])}
        >>> state = transform.init(grads)
        >>> for _ in range(4):
        ...     updates, state = transform.update(grads, state, grads)
        >>> updates["w"].round(3)
        array([0.5])

    Source:
        torch.optim.Adagrad; Duchi et al. 2011, JMLR 12.
    """
    expect_numbers("scale_by_sum_of_squares", NOT_NEGATIVE, initial=initial)
    expect_hypers("scale_by_sum_of_squares", NOT_NEGATIVE, eps=eps)
    counts = has_schedule(eps)

    def init(params):
        sums = tree.map(lambda p: namespace(p).full_like(p, initial), params)
        return {**init_count(params, eps=eps), "sum": sums}

    def update(grads, state, params):
        sums = tree.map(lambda s, g: s + g * g, state["sum"], grads)
        return divided_by_root(grads, sums, resolve_hyper(eps, state, grads)), {
            **next_count(state, counts),
            "sum": sums,
        }

    return elementwise(in_pairs(with_order(NORMALIZES, Optimizer(init, update))))


scale_by_sum_of_squares.only_at_init = ("initial",)


def scale_by_adam(betas=(0.9, 0.999), eps: Hyper = 1e-8, amsgrad: bool = False) -> Optimizer:
    """Return a transform that divides the running mean of g by the root of that of g^2.

        m = b1 * m + (1 - b1) * g;  v = b2 * v + (1 - b2) * g^2
        updates = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps),  t = 1, 2, ...

    Args:
        betas: (b1, b2), the decay rates of the running means of g and g^2.
        eps: added to the root, so that nothing is divided by 0.
        amsgrad: divide by the largest v so far; as in torch, it is taken before bias correction.

    Returns:
        A transform for `chain`; its state has the entries "exp_avg" and "exp_avg_sq" (and
        "max_exp_avg_sq" with amsgrad).

    Raises:
        UserError: betas is not a pair of numbers in [0, 1), eps is negative or not finite, or
            amsgrad is not a bool.

    Example:
        The first update is the sign of the gradient.

        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_adam(), {"w": np.array([100.0, -0.01])}
        >>> updates, _ = transform.update(grads, transform.init(grads), grads)
        >>> updates["w"].round(3)
        array([ 1., -1.])

    Source:
        torch.optim.Adam; Kingma and Ba 2015, arXiv 1412.6980; Reddi et al. 2018, arXiv 1904.09237.
    """
    expect_betas("scale_by_adam", betas)
    expect_hypers("scale_by_adam", NOT_NEGATIVE, eps=eps)
    expect_flags("scale_by_adam", amsgrad=amsgrad)
    known = as_numbers(*betas, eps)
    names = ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if amsgrad else ()))

    def init(params):
        means = {name: tree.zeros_like(params) for name in names}
        return {**first_count(params, betas=betas, eps=eps), **means}

    def update(grads, state, params):
        b1, b2, e = known or [resolve_hyper(value, state, grads) for value in (*betas, eps)]
        new = {"count": state["count"] + 1}
        count = count_as_float(new["count"], grads)
        c1, c2 = bias_correction(b1, count), bias_correction(b2, count)
        factor, e = c1 / c2**0.5, c1 * e  # m / c1 / (sqrt(v / c2) + e), in fewer operations
        w1, w2 = 1 - b1, 1 - b2

        def leaf(m, g, v, largest=None):  # all of a leaf while it is in cache
            m, v = lerp(m, g, w1), add_square(b2 * v, g, w2)
            if largest is None:
                return m / (sqrt(v) * factor + e), m, v
            largest = maximum(largest, v)
            return m / (sqrt(largest) * factor + e), m, v, largest

        m, *others = [state[name] for name in names]
        updates, *means = tree.map_to_several(leaf, len(names) + 1, m, grads, *others)
        new.update(zip(names, means, strict=True))
        return updates, new

    return elementwise(in_pairs(with_order(NORMALIZES, Optimizer(init, update))))


def scale_by_nadam(
    betas=(0.9, 0.999), eps: Hyper = 1e-8, momentum_decay: Hyper = 4e-3
) -> Optimizer:
    """Return a transform with the moments of Adam and Nesterov's momentum.

        mu_t = b1 * (1 - 0.96^(t * momentum_decay) / 2);  P_t = mu_1 * ... * mu_t
        mixed = (1 - mu_t) / (1 - P_t) * g + mu_(t+1) / (1 - P_(t+1)) * m
        updates = mixed / (sqrt(v / (1 - b2^t)) + eps)

    Here m and v are the running means of g and g^2.

    Args:
        betas: (b1, b2), the decay rates of m and v.
        eps: added to the root, so that nothing is divided by 0.
        momentum_decay: how fast mu_t rises from about b1 / 2 to b1.

    Returns:
        A transform for `chain`; its state has the entries "exp_avg", "exp_avg_sq" and "mu_product".

    Raises:
        UserError: betas is not a pair of numbers in [0, 1), or eps or momentum_decay is negative
            or not finite.

    Example:
        The first update is a little longer than Adam's, which is 1.

        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_nadam(), {"w": np.array([2.0, -0.5])}
        >>> updates, _ = transform.update(grads, transform.init(grads), grads)
        >>> updates["w"].round(3)
        array([ 1.056, -1.056])

    Source:
        torch.optim.NAdam; Dozat 2016, "Incorporating Nesterov momentum into Adam".
    """
    expect_betas("scale_by_nadam", betas)
    expect_hypers("scale_by_nadam", NOT_NEGATIVE, eps=eps, momentum_decay=momentum_decay)

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("exp_avg", "exp_avg_sq")}
        return {
            **first_count(params, betas=betas, eps=eps, momentum_decay=momentum_decay),
            "mu_product": count_to_dtype(zero_count(params), params) + 1,
            **means,
        }

    def update(grads, state, params):
        b1, b2, e, decay = [
            resolve_hyper(value, state, grads) for value in (*betas, eps, momentum_decay)
        ]
        means, counts = moments(b1, b2, grads, state), next_count(state)
        count = count_to_dtype(counts["count"], grads)
        mu, ahead = (b1 * (1 - 0.5 * 0.96 ** (t * decay)) for t in (count, count + 1))
        product = state["mu_product"] * mu
        now, later = (1 - mu) / (1 - product), ahead / (1 - product * ahead)
        mixed = tree.map(lambda g, m: now * g + later * m, grads, means["exp_avg"])
        c2 = bias_correction(b2, count)
        updates = divided_by_root(mixed, tree.map(lambda v: v / c2, means["exp_avg_sq"]), e)
        return updates, {**counts, "mu_product": product, **means}

    return elementwise(in_pairs(with_order(NORMALIZES, Optimizer(init, update))))


def scale_by_radam(betas=(0.9, 0.999), eps: Hyper = 1e-8) -> Optimizer:
    """Return a transform with Adam's moments that divides by the root only once v can be trusted.

    The variance of v is finite once the effective length rho of its running mean is above 4. Where
    rho > 5, as in torch, the update is r * m / (sqrt(v) + eps) with Adam's bias corrections and the
    factor r < 1 of the paper; before, it is m / (1 - b1^t) alone, which is momentum.

    Args:
        betas: (b1, b2), the decay rates of m and v, the running means of g and g^2.
        eps: added to the root of v, before its bias correction.

    Returns:
        A transform for `chain`; its state has the entries "exp_avg", "exp_avg_sq", and "radam",
        which holds no array and tells the state from Adam's.

    Raises:
        UserError: betas is not a pair of numbers in [0, 1), or eps is negative or not finite.

    Example:
        The first update is the gradient, not its sign as in Adam.

        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_radam(), {"w": np.array([3.0, -0.5])}
        >>> updates, _ = transform.update(grads, transform.init(grads), grads)
        >>> updates["w"]
        array([ 3. , -0.5])

    Source:
        torch.optim.RAdam; Liu et al. 2020, arXiv 1908.03265.
    """
    expect_betas("scale_by_radam", betas)
    expect_hypers("scale_by_radam", NOT_NEGATIVE, eps=eps)

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("exp_avg", "exp_avg_sq")}
        return {**first_count(params, betas=betas, eps=eps), **means}

    def update(grads, state, params):
        b1, b2, e = [resolve_hyper(value, state, grads) for value in (*betas, eps)]
        means, counts = moments(b1, b2, grads, state), next_count(state)
        c1 = bias_correction(b1, count_as_float(counts["count"], grads))
        rectified, factor = rectification(b2, counts["count"], grads)

        def scale(m, v):
            m = m / c1
            return namespace(m).where(rectified, m * (factor / (sqrt(v) + e)), m)

        return tree.map(scale, means["exp_avg"], means["exp_avg_sq"]), {**counts, **means}

    return elementwise(
        in_pairs(with_order(NORMALIZES, with_kind("radam", Optimizer(init, update))))
    )


def rectification(beta: float | Array, count: Array, grads: Params) -> tuple[Array, Array]:
    """Return whether rho > 5, and RAdam's factor r * sqrt(1 - beta^t) for that case.

    Computed in float64, since rho is a small difference of large numbers.
    """
    leaf, xp = first_leaf(grads), namespace(count)
    count = xp.astype(count, xp.float64)
    correction, longest = bias_correction(beta, count), 2 / (1 - beta) - 1
    rho = longest - 2 * count * (1 - correction) / correction
    r = xp.clip(rho, 5.0, None)  # where it is less, the result is not used
    r = (r - 4) * (r - 2) * longest / ((longest - 4) * (longest - 2) * r)
    return rho > 5, xp.astype(xp.sqrt(r * correction), leaf.dtype)


def scale_by_adamax(betas=(0.9, 0.999), eps: Hyper = 1e-8) -> Optimizer:
    """Return a transform that divides the running mean of g by a decaying maximum of |g|.

        m = b1 * m + (1 - b1) * g;  u = max(b2 * u, |g| + eps);  updates = m / ((1 - b1^t) * u)

    Args:
        betas: (b1, b2), the decay rates of m and u.
        eps: added to |g|.

    Returns:
        A transform for `chain`; its state has the entries "exp_avg" and "exp_inf".

    Raises:
        UserError: betas is not a pair of numbers in [0, 1), or eps is negative or not finite.

    Example:
        A gradient ten times smaller than the largest one gives a step ten times smaller.

        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_adamax(betas=(0.0, 0.999)), {"w": np.array([10.0])}
        >>> _, state = transform.update(grads, transform.init(grads), grads)
        >>> updates, state = transform.update({"w": np.array([1.0])}, state, grads)
        >>> updates["w"].round(3)
        array([0.1])

    Source:
        torch.optim.Adamax; Kingma and Ba 2015, arXiv 1412.6980, section 7.
    """
    expect_betas("scale_by_adamax", betas)
    expect_hypers("scale_by_adamax", NOT_NEGATIVE, eps=eps)

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("exp_avg", "exp_inf")}
        return {**first_count(params, betas=betas, eps=eps), **means}

    def update(grads, state, params):
        b1, b2, e = [resolve_hyper(value, state, grads) for value in (*betas, eps)]
        m = running_mean(b1, state["exp_avg"], grads)
        u = tree.map(lambda u, g: maximum(b2 * u, abs(g) + e), state["exp_inf"], grads)
        counts = next_count(state)
        c1 = bias_correction(b1, count_as_float(counts["count"], grads))
        return tree.map(lambda m, u: m / (c1 * u), m, u), {**counts, "exp_avg": m, "exp_inf": u}

    return elementwise(in_pairs(with_order(NORMALIZES, Optimizer(init, update))))


def scale_by_adadelta(rho: Hyper = 0.9, eps: Hyper = 1e-6) -> Optimizer:
    """Return a transform that scales the gradient to the units of the params.

        v = rho * v + (1 - rho) * g^2;  d = g * sqrt(D + eps) / sqrt(v + eps)
        D = rho * D + (1 - rho) * d^2

    The updates are d.

    Args:
        rho: the decay rate of the running means v and D, in [0, 1).
        eps: added to both means; it decides the size of the first steps.

    Returns:
        A transform for `chain`; its state has the entries "square_avg" (v) and "acc_delta" (D).

    Raises:
        UserError: rho is not in [0, 1), or eps is negative or not finite.

    Example:
        The first update has the size sqrt(eps / (1 - rho)).

        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_adadelta(), {"w": np.array([100.0, -10.0])}
        >>> updates, _ = transform.update(grads, transform.init(grads), grads)
        >>> updates["w"].round(5)
        array([ 0.00316, -0.00316])

    Source:
        torch.optim.Adadelta; Zeiler 2012, arXiv 1212.5701.
    """
    expect_hypers("scale_by_adadelta", DECAY, rho=rho)
    expect_hypers("scale_by_adadelta", NOT_NEGATIVE, eps=eps)
    counts = has_schedule(rho, eps)

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("square_avg", "acc_delta")}
        return {**init_count(params, rho=rho, eps=eps), **means}

    def update(grads, state, params):
        r, e = resolve_hyper(rho, state, grads), resolve_hyper(eps, state, grads)
        v = running_mean_of_squares(r, state["square_avg"], grads)

        def step(g, v, before):
            return g * (sqrt(before + e) / sqrt(v + e))

        delta = tree.map(step, grads, v, state["acc_delta"])
        squares = running_mean(r, state["acc_delta"], tree.map(lambda d: d * d, delta))
        return delta, {**next_count(state, counts), "square_avg": v, "acc_delta": squares}

    return elementwise(in_pairs(with_order(NORMALIZES, Optimizer(init, update))))


def scale_by_lion(betas=(0.9, 0.99)) -> Optimizer:
    """Return a transform that takes the sign of an interpolation of the momentum and the gradient.

        updates = sign(b1 * m + (1 - b1) * g);  m = b2 * m + (1 - b2) * g

    Args:
        betas: (b1, b2), the weight of m in the update and the decay rate of m.

    Returns:
        A transform for `chain`; its state has the entry "exp_avg" (m).

    Raises:
        UserError: betas is not a pair of numbers in [0, 1); from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_lion(), {"w": np.array([100.0, -0.01])}
        >>> updates, _ = transform.update(grads, transform.init(grads), grads)
        >>> updates["w"]
        array([ 1., -1.])

    Source:
        Chen et al. 2023, arXiv 2302.06675.
    """
    expect_betas("scale_by_lion", betas)
    counts = has_schedule(betas)

    def init(params):
        return {**init_count(params, betas=betas), "exp_avg": tree.zeros_like(params)}

    def update(grads, state, params):
        b1, b2 = [resolve_hyper(value, state, grads) for value in betas]
        ahead = running_mean(b1, state["exp_avg"], grads)
        return tree.map(sign, ahead), {
            **next_count(state, counts),
            "exp_avg": running_mean(b2, state["exp_avg"], grads),
        }

    lion = with_order(NORMALIZES, Optimizer(init, update))
    return elementwise(any_dtype(lion, refusing("scale_by_lion", lion)))


def scale_by_trust_ratio(coefficient: Hyper = 1.0, eps: float = 0.0) -> Optimizer:
    """Return a transform that scales each leaf of the updates to the norm of its params.

        updates = coefficient * |p| / (|g| + eps) * g

    A leaf whose params or gradient have norm 0 passes as it is.

    Args:
        coefficient: the norm of the update over that of the params.
        eps: added to the norm of the gradient.

    Returns:
        A transform for `chain`; its state has the entry "trust_ratio", which holds no array, and a
        "count" if coefficient is a schedule.

    Raises:
        UserError: coefficient or eps is negative or not finite.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> transform = optim.scale_by_trust_ratio(0.1)
        >>> params, grads = {"w": np.array([3.0, 4.0])}, {"w": np.array([0.0, 2.0])}
        >>> updates, _ = transform.update(grads, transform.init(params), params)
        >>> updates["w"]  # |p| = 5
        array([0. , 0.5])

    Source:
        You et al. 2017, arXiv 1708.03888.
    """
    expect_hypers("scale_by_trust_ratio", NOT_NEGATIVE, coefficient=coefficient)
    expect_numbers("scale_by_trust_ratio", NOT_NEGATIVE, eps=eps)

    def scale(coefficient, grads, params):
        def one(g, p):
            xp, (g_norm, p_norm) = namespace(g), (tree.norm({"": leaf}) for leaf in (g, p))
            nonzero = (g_norm > 0) & (p_norm > 0)
            ratio = coefficient * p_norm / xp.where(nonzero, g_norm + eps, xp.ones_like(g_norm))
            return g * xp.where(nonzero, ratio, xp.ones_like(ratio))

        return tree.map(one, grads, params)

    # another coefficient may be the rate itself
    is_one = type(coefficient) in (int, float) and coefficient == 1
    scaled_to_norm = with_kind("trust_ratio", stateless_with_hyper(scale, coefficient=coefficient))
    return any_dtype(with_order(NORMALIZES if is_one else KEEPS, scaled_to_norm))
