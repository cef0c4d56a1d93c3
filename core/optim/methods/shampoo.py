"""Shampoo: a matrix for each axis of a leaf, whose inverse root scales the gradient along it.

For a matrix G: L += G G^T, R += G^T G, and the step is L^(-1/4) G R^(-1/4); in general each of k
axes has the power -1/(2k).

Source: Gupta et al. 2018, arXiv 1802.09568, algorithm 2.
"""

import math
from collections.abc import Callable

from purenets.core import tree
from purenets.core.arguments import (
    DECAY,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    expect_hypers,
    expect_integers,
    expect_numbers,
)
from purenets.core.arrays import namespace
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.arithmetic import choose
from purenets.core.optim.internals.hyper import (
    Hyper,
    is_concrete,
    resolve_hyper,
    unless_zero,
    zero_count,
)
from purenets.core.optim.internals.order import NORMALIZES, with_order
from purenets.core.optim.internals.precision import any_dtype, real_only, refusing
from purenets.core.optim.transforms import (
    add_decayed_weights,
    chain,
    scale_by_learning_rate,
    trace,
)

AxisMatrices = dict[str, dict[str, Array]]  # {"fc1.weight": {"0": (rows, rows), "1": ...}}


def shampoo(
    lr: Hyper = 0.1,
    momentum: Hyper = 0,
    weight_decay: Hyper = 0,
    eps: float = 1e-4,
    beta: Hyper | None = None,
    every: int = 1,
    max_dim: int = 8192,
) -> Optimizer:
    """Return Shampoo, which scales the gradient by the inverse root of a matrix for each axis.

    `scale_by_shampoo` has the formula.

    Args:
        lr: the learning rate, a number or a schedule.
        momentum: the decay rate of a buffer of the scaled gradients, from 0 to 1; 0 for none.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient.
        eps: added to the diagonal of the matrices.
        beta: the decay rate of running means of the matrices; None for sums, as in the paper.
        every: updates from one inverse root to the next. Under torch.compile and vmap roots are
            computed in each update, and those not due are discarded.
        max_dim: axes longer than this have no matrix.

    Returns:
        An optimizer for real params; its state has the entries "statistics" and "roots", a matrix
        (n, n) for each axis of each leaf, and "momentum_buffer" with momentum.

    Raises:
        UserError: lr or weight_decay is negative or not finite, momentum is not in [0, 1], eps is
            not a finite number above 0, beta is not in [0, 1), or every or max_dim is not a
            positive integer; from `init`: a leaf is complex.

    Example:
        The first step of a matrix has lr as all its singular values.

        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.shampoo(lr=0.1), {"w": np.zeros((2, 2))}
        >>> grads = {"w": np.array([[9.0, 1.0], [1.0, 2.0]])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> np.linalg.svd(updates["w"])[1].round(3)
        array([0.1, 0.1])

    Source:
        Gupta et al. 2018, arXiv 1802.09568, algorithm 2.
    """
    expect_hypers("shampoo", NOT_NEGATIVE, lr=lr, weight_decay=weight_decay)
    expect_hypers("shampoo", FRACTION, momentum=momentum)
    _expect_shampoo("shampoo", eps, beta, every, max_dim)
    optimizer = chain(
        *unless_zero(weight_decay, add_decayed_weights),
        scale_by_shampoo(eps, beta, every, max_dim),
        *unless_zero(momentum, trace),
        scale_by_learning_rate(lr),
    )
    return real_only("shampoo", optimizer)


def _expect_shampoo(name: str, eps: float, beta: Hyper | None, every: int, max_dim: int) -> None:
    expect_numbers(name, POSITIVE, eps=eps)
    expect_integers(name, 1, every=every, max_dim=max_dim)
    if beta is not None:
        expect_hypers(name, DECAY, beta=beta)


def scale_by_shampoo(
    eps: float = 1e-4, beta: Hyper | None = None, every: int = 1, max_dim: int = 8192
) -> Optimizer:
    """Return a transform that multiplies g along each axis by the inverse root of a matrix.

    For a matrix G of the gradient:

        L = L + G G^T;  R = R + G^T G;  updates = (L + eps I)^(-1/4) G (R + eps I)^(-1/4)

    For a leaf of k axes with a matrix the power is -1 / (2 k).

    Args:
        eps: added to the diagonal of the matrices.
        beta: the decay rate of running means of the matrices; None for sums, as in the paper.
        every: updates from one inverse root to the next. Under torch.compile and vmap roots are
            computed in each update, and those not due are discarded.
        max_dim: axes longer than this have no matrix.

    Returns:
        A transform for `chain`; its state has the entries "statistics" and "roots", a matrix (n, n)
        for each axis of each leaf.

    Raises:
        UserError: eps is not a finite number above 0, beta is not in [0, 1), or every or max_dim is
            not a positive integer; from `init`: a leaf is complex.

    Example:
        The singular values of the first update are 1.

        >>> import numpy as np
        >>> from purenets import optim
        >>> transform = optim.scale_by_shampoo()
        >>> grads = {"w": np.array([[9.0, 1.0], [1.0, 2.0]])}
        >>> updates, _ = transform.update(grads, transform.init(grads), grads)
        >>> np.linalg.svd(updates["w"])[1].round(3)
        array([1., 1.])

    Source:
        Gupta et al. 2018, arXiv 1802.09568, algorithm 2.
    """
    _expect_shampoo("scale_by_shampoo", eps, beta, every, max_dim)

    def init(params):
        zeros = tree.zeros_like(axis_matrices(outer, params, max_dim))
        return {"count": zero_count(params), "statistics": zeros, "roots": zeros}

    def update(grads, state, params):
        new = axis_matrices(outer, grads, max_dim)
        if beta is None:
            statistics = tree.map(lambda s, n: s + n, state["statistics"], new)
        else:
            decay = resolve_hyper(beta, state, grads)
            statistics = tree.map(
                lambda s, n: decay * s + (1 - decay) * n, state["statistics"], new
            )
        due = state["count"] % every == 0
        unused = is_concrete(due) and not due
        roots = state["roots"] if unused else choose(due, _roots(statistics, eps), state["roots"])
        updates = {name: along_axes(roots[name], g) for name, g in grads.items()}
        return updates, {"count": state["count"] + 1, "statistics": statistics, "roots": roots}

    scale = with_order(NORMALIZES, Optimizer(init, update))
    return any_dtype(scale, refusing("scale_by_shampoo", scale))


def _roots(statistics: AxisMatrices, eps: float) -> AxisMatrices:
    """Return the inverse roots of all matrices: of 2k-th degree for a leaf of k of them."""
    return {
        name: {axis: inverse_root(m, 2 * len(matrices), eps) for axis, m in matrices.items()}
        for name, matrices in statistics.items()
    }


def inverse_root(matrix: Array, degree: int, eps: float) -> Array:
    """Return (matrix + eps I)^(-1 / degree) of a symmetric matrix without negative eigenvalues."""
    xp = namespace(matrix)
    values, vectors = xp.linalg.eigh(matrix)
    roots = (xp.clip(values, 0.0, None) + eps) ** (-1 / degree)  # rounding may make them negative
    return (vectors * roots) @ vectors.T


# --- matrices along axes --------------------------------------------------------------------------


def axis_matrices(f: Callable[[Array, int], Array], leaves: Params, max_dim: int) -> AxisMatrices:
    """Return `f(leaf, axis)` for each axis of each leaf that is no longer than `max_dim`."""
    return {
        name: {str(i): f(leaf, i) for i, length in enumerate(leaf.shape) if 0 < length <= max_dim}
        for name, leaf in leaves.items()
    }


def outer(g: Array, axis: int) -> Array:
    """Return the inner products (n, n) of the slices of `g` along an axis of length n."""
    rows = _first(g, axis)
    rows = rows.reshape(rows.shape[0], math.prod(rows.shape[1:]))
    return rows @ rows.T


def along_axes(matrices: dict[str, Array], g: Array, transpose: bool = False) -> Array:
    """Return `g` multiplied, along each axis that has one, by its matrix (n, n)."""
    for axis, matrix in matrices.items():
        moved = _first(g, int(axis))
        rows = moved.reshape(moved.shape[0], math.prod(moved.shape[1:]))
        rows = (matrix.T if transpose else matrix) @ rows
        g = _back(rows.reshape(moved.shape), int(axis))
    return g


def _first(a: Array, axis: int) -> Array:
    """Return `a` with one axis moved to the front (torch.moveaxis does not run under vmap)."""
    others = (i for i in range(a.ndim) if i != axis)
    return namespace(a).permute_dims(a, (axis, *others))


def _back(a: Array, axis: int) -> Array:
    """Return the inverse of `_first`."""
    order = [*range(1, axis + 1), 0, *range(axis + 1, a.ndim)]
    return namespace(a).permute_dims(a, tuple(order))
