"""Transforms: the small parts, pairs of functions, that optimizers are chains of.

A transform is an `Optimizer`: `init(params) -> state` and `update(grads, state, params) ->
(updates, state)`. It serves NumPy arrays and torch tensors alike; hyper-parameters are those of
`optim.hyper`. The entries of the states bear the names that torch.optim gives them.
"""

from collections.abc import Callable

from purenets.core import tree
from purenets.core.arguments import (
    ABOVE_0,
    DECAY,
    FRACTION,
    NOT_NEGATIVE,
    expect_betas,
    expect_flags,
    expect_functions,
    expect_hypers,
    expect_numbers,
    expect_optimizers,
)
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.arithmetic import (
    add_square,
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
    first_leaf,
    init_count,
    is_zero,
    next_count,
    resolve_hyper,
    stateless_with_hyper,
    zero_count,
)
from purenets.core.optim.internals.precision import (
    any_dtype,
    are_full,
    for_full,
    in_pairs,
    refusing,
    widened_leaves,
)

# --- composition ----------------------------------------------------------------------------------


def chain(*transforms: Optimizer) -> Optimizer:
    """Apply one transform after the other; their states are the entries "0", "1", ... of the state.

    A chain of transforms that treat every element alone does so itself (`optim.elementwise`). One
    look at the dtypes is enough for all (`optim.precision`).
    """
    expect_optimizers("chain", **{f"transform_{i}": part for i, part in enumerate(transforms)})
    named = {str(i): transform for i, transform in enumerate(transforms)}
    together = all(map(is_elementwise, transforms))
    takes_more = any(takes_extra_args(transform.update) for transform in transforms)
    inner = {name: on_leaves(t) if together else t.update for name, t in named.items()}
    if takes_more:
        inner = {name: with_extra_args(update) for name, update in inner.items()}

    def init(params):
        return {name: transform.init(params) for name, transform in named.items()}

    any_leaves = Optimizer(init, _in_sequence(inner, takes_more))
    full_only = Optimizer(
        init, _in_sequence({n: for_full(u) for n, u in inner.items()}, takes_more)
    )
    optimizer = any_dtype(full_only, any_leaves)
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
            grads, wide = widened_leaves(grads), widened_leaves(params)
        for name in others:
            grads, new_state[name] = named[name].update(grads, state[name], wide)
        params, new_state[last] = advance(grads, state[last], params)
        return params, new_state

    return advance_chain


def stateless(f: Callable[[Params, Params], Params]) -> Optimizer:
    """A transform without a state: `f(grads, params) -> updates`."""
    expect_functions("stateless", f=f)
    return any_dtype(
        Optimizer(lambda params: {}, lambda grads, state, params: (f(grads, params), state))
    )


# --- transforms -----------------------------------------------------------------------------------


def scale_by_learning_rate(lr: Hyper) -> Optimizer:
    """Updates -lr g: the end of every chain."""
    expect_hypers("scale_by_learning_rate", NOT_NEGATIVE, lr=lr)
    return elementwise(stateless_with_hyper(lr, lambda lr, grads, params: scaled(grads, -lr)))


def add_decayed_weights(weight_decay: Hyper) -> Optimizer:
    """g + weight_decay p."""
    expect_hypers("add_decayed_weights", NOT_NEGATIVE, weight_decay=weight_decay)

    def add(weight_decay, grads, params):
        return tree.map(lambda g, p: g + weight_decay * p, grads, params)

    return elementwise(stateless_with_hyper(weight_decay, add))


def clip_by_value(limit: Hyper) -> Optimizer:
    """Each element of g within [-limit, limit] (torch.nn.utils.clip_grad_value_)."""
    expect_hypers("clip_by_value", ABOVE_0, limit=limit)

    def clip(limit, grads, params):
        return tree.map(lambda g: namespace(g).clip(g, -limit, limit), grads)

    clipped = stateless_with_hyper(limit, clip)
    return elementwise(any_dtype(clipped, refusing("clip_by_value", clipped)))


def clip_by_global_norm(max_norm: Hyper) -> Optimizer:
    """All of g scaled so that its norm is at most `max_norm` (Pascanu et al. 2013). Exact: torch's
    clip_grad_norm_ divides by the norm + 1e-6."""
    expect_hypers("clip_by_global_norm", ABOVE_0, max_norm=max_norm)

    def clip(max_norm, grads, params):
        norm = tree.norm(grads)
        xp, over = namespace(norm), norm > max_norm
        # The inner `where`: a norm of 0 must not be divided by, in the backward pass either.
        factor = xp.where(over, max_norm / xp.where(over, norm, 1.0), 1.0)
        return scaled(grads, factor)

    return any_dtype(stateless_with_hyper(max_norm, clip))


def trace(momentum: Hyper, dampening: Hyper = 0, nesterov: bool = False) -> Optimizer:
    """buf = momentum buf + (1 - dampening) g; the first is g, undamped, as in torch.optim."""
    expect_hypers("trace", FRACTION, momentum=momentum, dampening=dampening)
    expect_flags("trace", nesterov=nesterov)
    damped = not is_zero(dampening)

    def init(params):
        counter = {"count": zero_count(params)} if damped else init_count(params, momentum)
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
        return updates, {**next_count(state), "momentum_buffer": buffer}

    return elementwise(Optimizer(init, update))


def scale_by_rms(alpha: Hyper = 0.99, eps: Hyper = 1e-8, centered: bool = False) -> Optimizer:
    """g / (sqrt(v) + eps), v the running mean of g^2 (if centered, its running variance)."""
    expect_hypers("scale_by_rms", DECAY, alpha=alpha)
    expect_hypers("scale_by_rms", NOT_NEGATIVE, eps=eps)
    expect_flags("scale_by_rms", centered=centered)

    def init(params):
        means = {"square_avg": tree.zeros_like(params)}
        means |= {"grad_avg": tree.zeros_like(params)} if centered else {}
        return {**init_count(params, alpha, eps), **means}

    def update(grads, state, params):
        a, e = resolve_hyper(alpha, state, grads), resolve_hyper(eps, state, grads)
        square = running_mean_of_squares(a, state["square_avg"], grads)
        means, variance = {"square_avg": square}, square
        if centered:
            means["grad_avg"] = running_mean(a, state["grad_avg"], grads)
            variance = tree.map(lambda v, m: v - m * m, square, means["grad_avg"])
        return divided_by_root(grads, variance, e), {**next_count(state), **means}

    return elementwise(in_pairs(Optimizer(init, update)))


def scale_by_sum_of_squares(initial: float = 0, eps: Hyper = 1e-10) -> Optimizer:
    """g / (sqrt(s) + eps), s the sum of all g^2 so far, from `initial` on."""
    expect_numbers("scale_by_sum_of_squares", NOT_NEGATIVE, initial=initial)
    expect_hypers("scale_by_sum_of_squares", NOT_NEGATIVE, eps=eps)

    def init(params):
        sums = tree.map(lambda p: namespace(p).full_like(p, initial), params)
        return {**init_count(params, eps), "sum": sums}

    def update(grads, state, params):
        sums = tree.map(lambda s, g: s + g * g, state["sum"], grads)
        return divided_by_root(grads, sums, resolve_hyper(eps, state, grads)), {
            **next_count(state),
            "sum": sums,
        }

    return elementwise(in_pairs(Optimizer(init, update)))


def scale_by_adam(betas=(0.9, 0.999), eps: Hyper = 1e-8, amsgrad: bool = False) -> Optimizer:
    """m / (sqrt(v) + eps), m and v the running means of g and g^2, each without its bias to zero.
    `amsgrad` takes the largest v so far, before the correction, as torch does (Reddi et al.
    2018)."""
    expect_betas("scale_by_adam", betas)
    expect_hypers("scale_by_adam", NOT_NEGATIVE, eps=eps)
    expect_flags("scale_by_adam", amsgrad=amsgrad)
    known = as_numbers(*betas, eps)
    names = ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if amsgrad else ()))

    def init(params):
        return {"count": zero_count(params), **{name: tree.zeros_like(params) for name in names}}

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

    return elementwise(in_pairs(Optimizer(init, update)))


def scale_by_nadam(
    betas=(0.9, 0.999), eps: Hyper = 1e-8, momentum_decay: Hyper = 4e-3
) -> Optimizer:
    """Adam with Nesterov's momentum (Dozat 2016), whose mu_t = b1 (1 - 0.96^(t momentum_decay) /
    2): ((1 - mu_t) g / (1 - prod mu) + mu_t+1 m / (1 - mu_t+1 prod mu)) / (sqrt(v) + eps)."""
    expect_betas("scale_by_nadam", betas)
    expect_hypers("scale_by_nadam", NOT_NEGATIVE, eps=eps, momentum_decay=momentum_decay)

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("exp_avg", "exp_avg_sq")}
        return {
            "count": zero_count(params),
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

    return elementwise(in_pairs(Optimizer(init, update)))


def scale_by_radam(betas=(0.9, 0.999), eps: Hyper = 1e-8) -> Optimizer:
    """Rectified Adam (Liu et al. 2020): r sqrt(1 - b2^t) m / (sqrt(v) + eps) where the length of
    the second average, rho, is over 5, and m alone before; m without its bias, eps beside the root
    of the biased v."""
    expect_betas("scale_by_radam", betas)
    expect_hypers("scale_by_radam", NOT_NEGATIVE, eps=eps)

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("exp_avg", "exp_avg_sq")}
        return {"count": zero_count(params), **means}

    def update(grads, state, params):
        b1, b2, e = [resolve_hyper(value, state, grads) for value in (*betas, eps)]
        means, counts = moments(b1, b2, grads, state), next_count(state)
        c1 = bias_correction(b1, count_as_float(counts["count"], grads))
        rectified, factor = rectification(b2, counts["count"], grads)

        def scale(m, v):
            m = m / c1
            return namespace(m).where(rectified, m * (factor / (sqrt(v) + e)), m)

        return tree.map(scale, means["exp_avg"], means["exp_avg_sq"]), {**counts, **means}

    return elementwise(in_pairs(Optimizer(init, update)))


def rectification(beta: float | Array, count: Array, grads: Params) -> tuple[Array, Array]:
    """Whether rho > 5, and RAdam's r sqrt(1 - beta^t) then.

    In float64, since rho is a small difference.
    """
    leaf, xp = first_leaf(grads), namespace(count)
    count = xp.astype(count, xp.float64)
    correction, longest = bias_correction(beta, count), 2 / (1 - beta) - 1
    rho = longest - 2 * count * (1 - correction) / correction
    r = xp.clip(rho, 5.0, None)  # where it is less, the result is not used
    r = (r - 4) * (r - 2) * longest / ((longest - 4) * (longest - 2) * r)
    return rho > 5, xp.astype(xp.sqrt(r * correction), leaf.dtype)


def scale_by_adamax(betas=(0.9, 0.999), eps: Hyper = 1e-8) -> Optimizer:
    """m / u: m the running mean of g without its bias to zero, u = max(b2 u, |g| + eps).

    Source: Kingma and Ba 2015, section 7.
    """
    expect_betas("scale_by_adamax", betas)
    expect_hypers("scale_by_adamax", NOT_NEGATIVE, eps=eps)

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("exp_avg", "exp_inf")}
        return {"count": zero_count(params), **means}

    def update(grads, state, params):
        b1, b2, e = [resolve_hyper(value, state, grads) for value in (*betas, eps)]
        m = running_mean(b1, state["exp_avg"], grads)
        u = tree.map(lambda u, g: maximum(b2 * u, abs(g) + e), state["exp_inf"], grads)
        counts = next_count(state)
        c1 = bias_correction(b1, count_as_float(counts["count"], grads))
        return tree.map(lambda m, u: m / (c1 * u), m, u), {**counts, "exp_avg": m, "exp_inf": u}

    return elementwise(in_pairs(Optimizer(init, update)))


def scale_by_adadelta(rho: Hyper = 0.9, eps: Hyper = 1e-6) -> Optimizer:
    """d = g sqrt(D + eps) / sqrt(v + eps), v the running mean of g^2 and D that of d^2 (Zeiler
    2012).
    """
    expect_hypers("scale_by_adadelta", DECAY, rho=rho)
    expect_hypers("scale_by_adadelta", NOT_NEGATIVE, eps=eps)

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("square_avg", "acc_delta")}
        return {**init_count(params, rho, eps), **means}

    def update(grads, state, params):
        r, e = resolve_hyper(rho, state, grads), resolve_hyper(eps, state, grads)
        v = running_mean_of_squares(r, state["square_avg"], grads)

        def step(g, v, before):
            return g * (sqrt(before + e) / sqrt(v + e))

        delta = tree.map(step, grads, v, state["acc_delta"])
        squares = running_mean(r, state["acc_delta"], tree.map(lambda d: d * d, delta))
        return delta, {**next_count(state), "square_avg": v, "acc_delta": squares}

    return elementwise(in_pairs(Optimizer(init, update)))


def scale_by_lion(betas=(0.9, 0.99)) -> Optimizer:
    """sign(b1 m + (1 - b1) g), then m = b2 m + (1 - b2) g (Chen et al. 2023)."""
    expect_betas("scale_by_lion", betas)

    def init(params):
        return {**init_count(params, *betas), "exp_avg": tree.zeros_like(params)}

    def update(grads, state, params):
        b1, b2 = [resolve_hyper(value, state, grads) for value in betas]
        ahead = running_mean(b1, state["exp_avg"], grads)
        return tree.map(sign, ahead), {
            **next_count(state),
            "exp_avg": running_mean(b2, state["exp_avg"], grads),
        }

    lion = Optimizer(init, update)
    return elementwise(any_dtype(lion, refusing("scale_by_lion", lion)))


def scale_by_trust_ratio(coefficient: Hyper = 1.0, eps: float = 0.0) -> Optimizer:
    """Each leaf of g times coefficient |p| / (|g| + eps), or as it is where either norm is 0.

    Source: You et al. 2017.
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

    return any_dtype(stateless_with_hyper(coefficient, scale))
