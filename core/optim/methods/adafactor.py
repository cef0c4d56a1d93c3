"""Adafactor: the running mean of squared gradients of a matrix, kept as its row and column means.

A matrix (r, c) needs r + c numbers in place of r c. Numbers, names and defaults are those of
torch.optim.Adafactor.

Source: Shazeer and Stern 2018, arXiv 1804.04235.
"""

import math

from purenets.core import tree
from purenets.core.arguments import (
    ABOVE_0,
    FROM_1,
    NOT_NEGATIVE,
    NOT_POSITIVE,
    expect_hypers,
    expect_numbers,
    expect_several,
)
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.arithmetic import at_least, at_most, lerp, nonzero
from purenets.core.optim.internals.hyper import (
    Hyper,
    as_numbers,
    count_to_dtype,
    first_count,
    is_zero,
    next_count,
    resolve_hyper,
    stateless_with_hyper,
    zero_count,
)
from purenets.core.optim.internals.order import (
    KEEPS,
    NORMALIZES,
    TURNS,
    with_order,
)
from purenets.core.optim.internals.precision import any_dtype, real_only, refusing
from purenets.core.optim.transforms import chain


def adafactor(
    lr: Hyper = 1e-2,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: Hyper = 1.0,
    weight_decay: Hyper = 0,
) -> Optimizer:
    """Return Adafactor: second moments of a matrix kept as row and column means, relative steps.

    A matrix (r, c) needs r + c numbers for them, not r * c. The step t of a leaf has at most the
    root mean square min(lr, 1 / sqrt(t)) * max(eps[1], rms(p)) * d.

    Args:
        lr: the largest step relative to the root mean square of the leaf.
        beta2_decay: the newest squares have the weight t^beta2_decay in their running mean; at most
            0.
        eps: (e1, e2): the smallest mean square is e1^2 (None: e1 is the machine epsilon
            of the leaf's dtype; half-precision leaves are computed in float32 and use its epsilon).
            e2 is the smallest root mean square assumed for a leaf, so that zeros can be trained.
        d: scaled gradients of a leaf are clipped to this root mean square; 1 or more.
        weight_decay: decoupled weight decay; each step also subtracts lr * weight_decay * p.

    Returns:
        An optimizer for real params; its state has the entries "row_var" and "col_var" of matrices
        and "variance" of all other leaves.

    Raises:
        UserError: lr or weight_decay is negative or not finite, beta2_decay is positive, eps is not
            a pair of non-negative numbers (the first may be None), or d is below 1; from `init`: a
            leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.adafactor(lr=0.01), {"w": np.full(2, 5.0)}
        >>> grads = {"w": np.array([100.0, -0.01])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"].round(3)  # 1 % of the size of the params
        array([-0.05,  0.05])

    Source:
        torch.optim.Adafactor; Shazeer and Stern 2018, arXiv 1804.04235.
    """
    expect_hypers("adafactor", NOT_NEGATIVE, lr=lr, weight_decay=weight_decay)
    expect_several("adafactor", ("a pair", (None, 1e-3)), eps=eps)
    _expect_factored("adafactor", beta2_decay, eps[0])
    expect_hypers("adafactor", NOT_NEGATIVE, eps=eps[1])
    expect_hypers("adafactor", FROM_1, d=d)
    optimizer = chain(
        scale_by_factored_rms(beta2_decay, eps[0]),
        clip_by_block_rms(d),
        scale_by_param_rms(eps[1]),
        _relative_step(lr, weight_decay),
    )
    return real_only("adafactor", optimizer)


def _expect_factored(name: str, beta2_decay: float, eps: float | None) -> None:
    expect_numbers(name, NOT_POSITIVE, beta2_decay=beta2_decay)
    if eps is not None:
        expect_numbers(name, NOT_NEGATIVE, eps=eps)


def scale_by_factored_rms(beta2_decay: float = -0.8, eps: float | None = None) -> Optimizer:
    """Return a transform that divides g by the root of its mean square, factored for matrices.

    For a leaf of two or more axes the mean is estimated from its means along the last two axes, as
    a matrix of rank one: row means (r, 1) times column means (1, c) over the mean of all.

    Args:
        beta2_decay: the newest squares have the weight t^beta2_decay; at most 0.
        eps: the smallest mean square is eps^2; None for the machine epsilon of the leaf's
            dtype, of float32 for half precision.

    Returns:
        A transform for `chain`; its state has the entries "row_var" and "col_var" of leaves of two
        or more axes, and "variance" of all others.

    Raises:
        UserError: beta2_decay is positive, or eps is negative or not finite; from `init`: a leaf is
            complex.

    Example:
        Squares of rank one are reconstructed exactly, so the first update is the sign of g.

        >>> import numpy as np
        >>> from purenets import optim
        >>> transform = optim.scale_by_factored_rms()
        >>> grads = {"w": np.outer([1.0, 2.0], [3.0, -4.0, 5.0])}
        >>> updates, state = transform.update(grads, transform.init(grads), grads)
        >>> updates["w"].round(3)
        array([[ 1., -1.,  1.],
               [ 1., -1.,  1.]])
        >>> state["row_var"]["w"].shape, state["col_var"]["w"].shape
        ((2, 1), (1, 3))

    Source:
        torch.optim.Adafactor; Shazeer and Stern 2018, arXiv 1804.04235.
    """
    _expect_factored("scale_by_factored_rms", beta2_decay, eps)

    def init(params):
        factored = {name for name, p in params.items() if p.ndim > 1 and math.prod(p.shape)}
        matrices = {name: p for name, p in params.items() if name in factored}
        vectors = {name: p for name, p in params.items() if name not in factored}
        return {
            "count": zero_count(params),
            "row_var": tree.map(lambda p: _zeros(p, -1), matrices),
            "col_var": tree.map(lambda p: _zeros(p, -2), matrices),
            "variance": tree.zeros_like(vectors),
        }

    def update(grads, state, params):
        count = state["count"] + 1
        weight = count_to_dtype(count, grads) ** beta2_decay
        squares = tree.map(lambda g: g * g, grads)
        rows = _moved(state["row_var"], squares, weight, -1)
        columns = _moved(state["col_var"], squares, weight, -2)
        vectors = _moved(state["variance"], squares, weight, None)

        def scale(name, g):
            xp, v = namespace(g), vectors.get(name)
            smallest = xp.finfo(g.dtype).eps if eps is None else resolve_hyper(eps, state, {"": g})
            if v is None:
                mean = xp.clip(rows[name].mean(-2, keepdims=True), smallest, None)
                v = rows[name] @ columns[name] / mean
            least = smallest * smallest
            v = xp.clip(v, least, None)
            # the square of a very small eps is 0 in float32, and 0 / 0 would be NaN
            is_known = eps is None or as_numbers(eps) is not None
            never_0 = is_known and least >= xp.finfo(g.dtype).smallest_normal
            return g / sqrt(v if never_0 else nonzero(v))

        new = {"count": count, "row_var": rows, "col_var": columns, "variance": vectors}
        return {name: scale(name, g) for name, g in grads.items()}, new

    factored = with_order(NORMALIZES, Optimizer(init, update))
    return any_dtype(factored, refusing("scale_by_factored_rms", factored))


def _zeros(p: Array, axis: int) -> Array:
    """Return zeros like `p` with one axis of length 1."""
    return namespace(p).zeros_like(p.sum(axis, keepdims=True))


def _moved(means: Params, squares: Params, weight: Array, axis: int | None) -> Params:
    """Return running means after new squares, which are averaged along `axis`."""
    new = {name: squares[name] for name in means}
    if axis is not None:
        new = tree.map(lambda s: s.mean(axis, keepdims=True), new)
    return tree.map(lambda m, s: lerp(m, s, weight), means, new)


def clip_by_block_rms(limit: Hyper) -> Optimizer:
    """Return a transform that scales each leaf so that its root mean square is at most limit.

    Args:
        limit: the largest root mean square of a leaf.

    Returns:
        A transform for `chain`; its state is empty, or has a "count" if limit is a schedule.

    Raises:
        UserError: limit is not above 0.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> clip = optim.clip_by_block_rms(1.0)
        >>> grads = {"a": np.array([2.0, -2.0]), "b": np.array([0.5, 0.5])}
        >>> updates, _ = clip.update(grads, clip.init(grads), grads)
        >>> updates["a"], updates["b"]
        (array([ 1., -1.]), array([0.5, 0.5]))

    Source:
        optax.clip_by_block_rms; Shazeer and Stern 2018, arXiv 1804.04235.
    """
    expect_hypers("clip_by_block_rms", ABOVE_0, limit=limit)

    def clip(limit, grads, params):
        def one(g):
            return g / at_least(rms(g) / limit, 1.0)

        return tree.map(one, grads)

    return any_dtype(with_order(KEEPS, stateless_with_hyper(clip, limit=limit)))


def scale_by_param_rms(eps: Hyper = 1e-3) -> Optimizer:
    """Return a transform that multiplies each leaf by the root mean square of its params.

    Args:
        eps: the smallest root mean square that a leaf counts with, so that zeros can be trained.

    Returns:
        A transform for `chain`; its state is empty, or has a "count" if eps is a schedule.

    Raises:
        UserError: eps is negative or not finite.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> transform = optim.scale_by_param_rms()
        >>> params, grads = {"w": np.array([3.0, -3.0])}, {"w": np.array([1.0, 2.0])}
        >>> updates, _ = transform.update(grads, transform.init(params), params)
        >>> updates["w"]
        array([3., 6.])

    Source:
        optax.scale_by_param_block_rms; Shazeer and Stern 2018, arXiv 1804.04235.
    """
    expect_hypers("scale_by_param_rms", NOT_NEGATIVE, eps=eps)

    def scale(eps, grads, params):
        def one(g, p):
            return g * at_least(rms(p), eps)

        return tree.map(one, grads, params)

    return any_dtype(with_order(KEEPS, stateless_with_hyper(scale, eps=eps)))


def rms(a: Array) -> Array:
    """Return the root mean square of all elements; 0 of none."""
    return tree.norm({"": a}) / math.sqrt(max(math.prod(a.shape), 1))


def _relative_step(lr: Hyper, weight_decay: Hyper) -> Optimizer:
    """Return -min(lr, 1 / sqrt(t)) g - lr weight_decay p."""

    def update(grads, state, params):
        rate, decay = (resolve_hyper(value, state, grads) for value in (lr, weight_decay))
        counts = next_count(state)
        limit = 1 / sqrt(count_to_dtype(counts["count"], grads))
        step = at_most(limit, rate)
        if is_zero(weight_decay):
            return tree.map(lambda g: -step * g, grads), counts
        return tree.map(lambda g, p: -step * g - rate * decay * p, grads, params), counts

    hypers = {"lr": lr, "weight_decay": weight_decay}
    step = Optimizer(lambda params: first_count(params, **hypers), update)
    return with_order(TURNS._replace(penalizes=not is_zero(weight_decay)), step)
