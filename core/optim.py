"""Optimisers as pairs of functions, for NumPy arrays and torch tensors alike.

An `Optimizer` is `init(params) -> opt_state` and `update(grads, opt_state, params) -> (updates, opt_state)`;
`apply_updates` adds. Each is a chain of small transforms, composed below as in torch.optim, whose names,
defaults and numbers they keep:

    sgd      decayed weights | trace of momentum            | times -lr
    rmsprop  decayed weights | / root of mean square | trace | times -lr
    adagrad  decayed weights | / root of sum of squares      | times -lr
    adam     decayed weights | moments                       | times -lr
    adamw    moments | decayed weights                       | times -lr

A hyper-parameter is a number, a schedule (a function of the count of updates, from 0) or a scalar array, so
that it can be vmapped over. There is no branch on a value: all of it runs under vmap and torch.compile.
"""

import math
from collections.abc import Callable

from core import tree
from core.arrays import like, namespace
from core.base import Array, Optimizer, Params, UserError

Hyper = float | Array | Callable[[Array], Array]


# --- composition ------------------------------------------------------------------------------------------


def apply_updates(params: Params, updates: Params) -> Params:
    """`params + updates`, each leaf in its own dtype."""

    def add(p, u):
        new = p + u
        return new if new.dtype == p.dtype else namespace(p).astype(new, p.dtype)

    return tree.map(add, params, updates)


def chain(*transforms: Optimizer) -> Optimizer:
    """One transform after the other; their states are the entries "0", "1", ... of the state."""

    def init(params):
        return {str(i): transform.init(params) for i, transform in enumerate(transforms)}

    def update(grads, state, params):
        new_state = {}
        for i, transform in enumerate(transforms):
            grads, new_state[str(i)] = transform.update(grads, state[str(i)], params)
        return grads, new_state

    return Optimizer(init, update)


def stateless(f: Callable[[Params, Params], Params]) -> Optimizer:
    """A transform without a state: `f(grads, params) -> updates`."""
    return Optimizer(lambda params: {}, lambda grads, state, params: (f(grads, params), state))


# --- optimisers -------------------------------------------------------------------------------------------


def sgd(
    lr: Hyper = 1e-3, momentum: Hyper = 0, dampening: Hyper = 0, weight_decay: Hyper = 0, nesterov=False
) -> Optimizer:
    """Stochastic gradient descent (torch.optim.SGD): buf = momentum buf + g; p = p - lr buf.

    Nesterov's variant steps along g + momentum buf (Sutskever et al. 2013).
    """
    if nesterov and (is_zero(momentum) or not is_zero(dampening)):
        raise UserError("sgd: nesterov needs a momentum and no dampening")
    return chain(
        *optional(weight_decay, add_decayed_weights),
        *optional(momentum, lambda momentum: trace(momentum, dampening, nesterov)),
        scale_by_learning_rate(lr),
    )


def momentum(lr: Hyper = 1e-3, momentum: Hyper = 0.9, weight_decay: Hyper = 0) -> Optimizer:
    """`sgd` with heavy-ball momentum (Polyak 1964)."""
    return sgd(lr, momentum, weight_decay=weight_decay)


def nesterov(lr: Hyper = 1e-3, momentum: Hyper = 0.9, weight_decay: Hyper = 0) -> Optimizer:
    """`sgd` with Nesterov's momentum."""
    return sgd(lr, momentum, weight_decay=weight_decay, nesterov=True)


def rmsprop(
    lr: Hyper = 1e-2,
    alpha: Hyper = 0.99,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    momentum: Hyper = 0,
    centered: bool = False,
) -> Optimizer:
    """RMSProp (torch.optim.RMSprop; Tieleman and Hinton 2012): v = alpha v + (1 - alpha) g^2;
    p = p - lr g / (sqrt(v) + eps). `centered` subtracts the squared mean gradient (Graves 2013)."""
    return chain(
        *optional(weight_decay, add_decayed_weights),
        scale_by_rms(alpha, eps, centered),
        *optional(momentum, trace),
        scale_by_learning_rate(lr),
    )


def adagrad(
    lr: Hyper = 1e-2,
    lr_decay: Hyper = 0,
    weight_decay: Hyper = 0,
    initial_accumulator_value: float = 0,
    eps: Hyper = 1e-10,
) -> Optimizer:
    """Adagrad (torch.optim.Adagrad; Duchi et al. 2011): s = s + g^2; p = p - lr g / (sqrt(s) + eps), where
    lr falls as 1 / (1 + count lr_decay)."""

    def decayed(count):
        rate, decay = (value(count) if callable(value) else value for value in (lr, lr_decay))
        return rate / (1 + count * decay)

    return chain(
        *optional(weight_decay, add_decayed_weights),
        scale_by_sum_of_squares(initial_accumulator_value, eps),
        scale_by_learning_rate(lr if is_zero(lr_decay) else decayed),
    )


def adam(lr: Hyper = 1e-3, betas=(0.9, 0.999), eps: Hyper = 1e-8, weight_decay: Hyper = 0) -> Optimizer:
    """Adam (torch.optim.Adam; Kingma and Ba 2015). `weight_decay` is added to the gradient: see `adamw`."""
    return chain(
        *optional(weight_decay, add_decayed_weights),
        scale_by_adam(betas, eps),
        scale_by_learning_rate(lr),
    )


def adamw(lr: Hyper = 1e-3, betas=(0.9, 0.999), eps: Hyper = 1e-8, weight_decay: Hyper = 1e-2) -> Optimizer:
    """Adam with decoupled weight decay: p = p - lr weight_decay p (torch.optim.AdamW; Loshchilov and Hutter
    2019)."""
    return chain(
        scale_by_adam(betas, eps),
        *optional(weight_decay, add_decayed_weights),
        scale_by_learning_rate(lr),
    )


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    f.__name__: f for f in (sgd, momentum, nesterov, rmsprop, adagrad, adam, adamw)
}


# --- transforms -------------------------------------------------------------------------------------------


def scale_by_learning_rate(lr: Hyper) -> Optimizer:
    """Updates -lr g: the end of every chain."""
    return with_hyper(lr, lambda lr, grads, params: scaled(grads, -lr))


def add_decayed_weights(weight_decay: Hyper) -> Optimizer:
    """g + weight_decay p."""
    return with_hyper(
        weight_decay, lambda wd, grads, params: tree.map(lambda g, p: g + wd * p, grads, params)
    )


def clip_by_value(limit: Hyper) -> Optimizer:
    """Each element of g within [-limit, limit] (torch.nn.utils.clip_grad_value_)."""
    return with_hyper(
        limit, lambda limit, grads, _: tree.map(lambda g: namespace(g).clip(g, -limit, limit), grads)
    )


def clip_by_global_norm(max_norm: Hyper) -> Optimizer:
    """All of g scaled so that its norm is at most `max_norm` (Pascanu et al. 2013). Exact: torch's
    clip_grad_norm_ divides by the norm + 1e-6."""

    def clip(max_norm, grads, params):
        norm = tree.norm(grads)
        xp = namespace(norm)
        return scaled(grads, xp.where(norm > max_norm, max_norm / norm, xp.ones_like(norm)))

    return with_hyper(max_norm, clip)


def trace(momentum: Hyper, dampening: Hyper = 0, nesterov: bool = False) -> Optimizer:
    """buf = momentum buf + (1 - dampening) g, but the first buf is g, undamped, as in torch.optim."""
    damped = not is_zero(dampening)

    def init(params):
        counter = {"count": zero(params)} if damped else count_for(params, momentum)
        return {**counter, "momentum_buffer": tree.zeros_like(params)}

    def update(grads, state, params):
        decay, fresh = hyper(momentum, state, grads), grads
        if damped:
            xp, count = namespace(state["count"]), real(state["count"], grads)
            fresh = scaled(
                grads, xp.where(count == 0, xp.ones_like(count), 1 - hyper(dampening, state, grads))
            )
        buffer = tree.map(lambda buf, g: decay * buf + g, state["momentum_buffer"], fresh)
        updates = tree.map(lambda g, buf: g + decay * buf, grads, buffer) if nesterov else buffer
        return updates, {**counted(state), "momentum_buffer": buffer}

    return Optimizer(init, update)


def scale_by_rms(alpha: Hyper = 0.99, eps: Hyper = 1e-8, centered: bool = False) -> Optimizer:
    """g / (sqrt(v) + eps), v the running mean of g^2 (if centered, less the square of that of g)."""

    def init(params):
        means = {"square_avg": tree.zeros_like(params)}
        means |= {"grad_avg": tree.zeros_like(params)} if centered else {}
        return {**count_for(params, alpha, eps), **means}

    def update(grads, state, params):
        a, e = hyper(alpha, state, grads), hyper(eps, state, grads)
        square = running_mean(a, state["square_avg"], tree.map(lambda g: g * g, grads))
        means, variance = {"square_avg": square}, square
        if centered:
            means["grad_avg"] = running_mean(a, state["grad_avg"], grads)
            variance = tree.map(lambda v, m: v - m * m, square, means["grad_avg"])
        return divided_by_root(grads, variance, e), {**counted(state), **means}

    return Optimizer(init, update)


def scale_by_sum_of_squares(initial: float = 0, eps: Hyper = 1e-10) -> Optimizer:
    """g / (sqrt(s) + eps), s the sum of all g^2 so far, from `initial` on."""

    def init(params):
        sums = tree.map(lambda p: namespace(p).full_like(p, initial), params)
        return {**count_for(params, eps), "sum": sums}

    def update(grads, state, params):
        sums = tree.map(lambda s, g: s + g * g, state["sum"], grads)
        return divided_by_root(grads, sums, hyper(eps, state, grads)), {**counted(state), "sum": sums}

    return Optimizer(init, update)


def scale_by_adam(betas=(0.9, 0.999), eps: Hyper = 1e-8) -> Optimizer:
    """m / (sqrt(v) + eps), m and v the running means of g and g^2, each without its bias to zero."""

    def init(params):
        means = {name: tree.zeros_like(params) for name in ("exp_avg", "exp_avg_sq")}
        return {"count": zero(params), **means}

    def update(grads, state, params):
        b1, b2, e = (hyper(value, state, grads) for value in (*betas, eps))
        m = running_mean(b1, state["exp_avg"], grads)
        v = running_mean(b2, state["exp_avg_sq"], tree.map(lambda g: g * g, grads))
        state = {**counted(state), "exp_avg": m, "exp_avg_sq": v}
        count = real(state["count"], grads)
        c1, c2 = bias_correction(b1, count), bias_correction(b2, count)
        updates = divided_by_root(tree.map(lambda m: m / c1, m), tree.map(lambda v: v / c2, v), e)
        return updates, state

    return Optimizer(init, update)


# --- what transforms are made of --------------------------------------------------------------------------


def is_zero(value: Hyper) -> bool:
    """Whether a hyper-parameter is the number 0, which leaves its transform out (an array never is)."""
    return type(value) in (int, float) and value == 0


def optional(value: Hyper, transform: Callable[[Hyper], Optimizer]) -> tuple[Optimizer, ...]:
    """The transform of a hyper-parameter, or none where that is the number 0."""
    return () if is_zero(value) else (transform(value),)


def with_hyper(value: Hyper, f: Callable[[Array, Params, Params], Params]) -> Optimizer:
    """The transform `f(value, grads, params) -> updates` of one hyper-parameter."""

    def update(grads, state, params):
        return f(hyper(value, state, grads), grads, params), counted(state)

    return Optimizer(lambda params: count_for(params, value), update)


def hyper(value: Hyper, state: dict, grads: Params) -> float | Array:
    """The value of a hyper-parameter: a number as it is, a schedule at the state's count, an array in the
    dtype of the gradients (a NumPy float64 would promote float32 leaves)."""
    if callable(value):
        value = value(real(state["count"], grads))
    if type(value) in (int, float):
        return value
    leaf = first_leaf(grads)
    xp = namespace(value)
    if xp is not namespace(leaf):
        return like(value, leaf)
    return value if value.dtype == leaf.dtype else xp.astype(xp.asarray(value), leaf.dtype)


def count_for(params: Params, *values: Hyper) -> dict:
    """The entry "count" of a state, where one of the values is a schedule."""
    return {"count": zero(params)} if any(callable(value) for value in values) else {}


def counted(state: dict) -> dict:
    """The entry "count" of the next state, where this one has it."""
    return {"count": state["count"] + 1} if "count" in state else {}


def zero(params: Params) -> Array:
    """A count of 0: int64, on the device of the params."""
    leaf = first_leaf(params)
    xp = namespace(leaf)
    return xp.zeros((), dtype=xp.int64, device=leaf.device)


def real(count: Array, grads: Params) -> Array:
    """The count as a number of the gradients' dtype (float32 at least), so that what is computed from it
    has the dtype of the net."""
    leaf, xp = first_leaf(grads), namespace(count)
    return xp.astype(count, leaf.dtype if leaf.dtype == xp.float64 else xp.float32)


def first_leaf(params: Params) -> Array:
    """Any leaf, for its library, device and dtype."""
    for leaf in params.values():
        return leaf
    raise UserError("params: an optimiser needs at least one leaf")


def scaled(grads: Params, factor: float | Array) -> Params:
    """Every leaf times `factor`."""
    return tree.map(lambda g: g * factor, grads)


def divided_by_root(grads: Params, squares: Params, eps: float | Array) -> Params:
    """g / (sqrt(s) + eps)."""
    return tree.map(lambda g, s: g / (namespace(s).sqrt(s) + eps), grads, squares)


def running_mean(beta: float | Array, mean: Params, new: Params) -> Params:
    """beta mean + (1 - beta) new."""
    return tree.map(lambda m, n: beta * m + (1 - beta) * n, mean, new)


def bias_correction(beta: float | Array, count: Array) -> Array:
    """1 - beta ** count; by expm1, since the difference would lose half the digits of a float32."""
    if type(beta) in (int, float):
        log = math.log(beta) if beta > 0 else -math.inf
    else:
        log = namespace(beta).log(beta)
    return -namespace(count).expm1(count * log)
