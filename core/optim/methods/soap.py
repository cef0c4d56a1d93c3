"""SOAP: Adam in the eigenbasis of Shampoo's matrices.

The gradient is rotated into the basis, Adam's second moment is kept there, and the step is rotated
back. The basis is brought up to date every few updates, by one power iteration and a QR
decomposition. Derivatives of an update take it as a constant: where eigenvalues are equal it has
none.

Source: Vyas et al. 2024, arXiv 2409.11321, algorithm 3, and the authors' implementation.
"""

from purenets.core import tree
from purenets.core.arguments import (
    DECAY,
    NOT_NEGATIVE,
    expect_betas,
    expect_hypers,
    expect_integers,
)
from purenets.core.arrays import namespace, sqrt, stop_gradient
from purenets.core.base import Array, Optimizer
from purenets.core.optim.internals.arithmetic import (
    add_square,
    at_least,
    bias_correction,
    choose,
    lerp,
)
from purenets.core.optim.internals.elementwise import elementwise
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    first_count,
    has_schedule,
    init_count,
    is_concrete,
    next_count,
    resolve_hyper,
    unless_zero,
)
from purenets.core.optim.internals.order import (
    KEEPS,
    NORMALIZES,
    with_order,
)
from purenets.core.optim.internals.precision import any_dtype, real_only, refusing
from purenets.core.optim.methods.shampoo import AxisMatrices, along_axes, axis_matrices, outer
from purenets.core.optim.transforms import chain, scale_by_learning_rate
from purenets.core.optim.wrappers import skip_first


def soap(
    lr: Hyper = 3e-3,
    betas=(0.95, 0.95),
    shampoo_beta: Hyper | None = None,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.01,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
) -> Optimizer:
    """Return SOAP: Adam in the eigenbasis of Shampoo's matrices.

    The first gradient only begins the matrices: the first update is 0.

    Args:
        lr: the learning rate, a number or a schedule.
        betas: (b1, b2), the decay rates of the running means of g and of the squares of rotated g.
        shampoo_beta: the decay rate of the matrices; b2 by default.
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: decoupled weight decay, after the step: the new params are multiplied by
            1 - lr * weight_decay.
        precondition_frequency: updates from one basis to the next. Under torch.compile and vmap a
            basis is computed in each update, and those not due are discarded.
        max_precond_dim: axes longer than this are not rotated, and neither are leaves of one axis.

    Returns:
        An optimizer for real params; its state has the entries "exp_avg", "exp_avg_sq", and "GG"
        and "Q", a matrix (n, n) and its basis for each rotated axis.

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, betas or shampoo_beta are not
            numbers in [0, 1), or precondition_frequency or max_precond_dim is not a positive
            integer; from `init`: a leaf is complex.

    Example:
        The second update, the first that moves, has lr as all its singular values.

        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.soap(lr=0.1), {"w": np.zeros((2, 2))}
        >>> state, grads = optimizer.init(params), {"w": np.array([[9.0, 1.0], [1.0, 2.0]])}
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(grads, state, params)
        >>> np.linalg.svd(updates["w"])[1].round(3)
        array([0.1, 0.1])

    Source:
        Vyas et al. 2024, arXiv 2409.11321, algorithm 3, and the authors' code.
    """
    frequency, limit = precondition_frequency, max_precond_dim
    expect_hypers("soap", NOT_NEGATIVE, lr=lr, weight_decay=weight_decay)
    _expect_soap("soap", betas, shampoo_beta, eps, frequency, limit)
    scale = scale_by_soap(betas, shampoo_beta, eps, frequency, limit)
    decay = unless_zero(weight_decay, lambda value: _decay_after_step(lr, value))
    optimizer = skip_first(chain(scale, scale_by_learning_rate(lr), *decay))
    return real_only("soap", optimizer)


def _decay_after_step(lr: Hyper, weight_decay: Hyper) -> Optimizer:
    """Return the transform that leads to (p + u) * (1 - lr * weight_decay)."""

    counts = has_schedule(lr, weight_decay)

    def update(updates, state, params):
        rate, decay = (resolve_hyper(value, state, updates) for value in (lr, weight_decay))
        pull = rate * decay
        updates = tree.map(lambda u, p: u - pull * (p + u), updates, params)
        return updates, next_count(state, counts)

    hypers = {"lr": lr, "weight_decay": weight_decay}
    decay = Optimizer(lambda params: init_count(params, **hypers), update)
    return elementwise(with_order(KEEPS._replace(penalizes=True), decay))


def _expect_soap(name: str, betas, shampoo_beta, eps: Hyper, frequency: int, limit: int) -> None:
    expect_betas(name, betas)
    expect_hypers(name, NOT_NEGATIVE, eps=eps)
    expect_integers(name, 1, precondition_frequency=frequency, max_precond_dim=limit)
    if shampoo_beta is not None:
        expect_hypers(name, DECAY, shampoo_beta=shampoo_beta)


def scale_by_soap(
    betas=(0.95, 0.95),
    shampoo_beta: Hyper | None = None,
    eps: Hyper = 1e-8,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
) -> Optimizer:
    """Return a transform that takes Adam's step in the eigenbases of the axes of each matrix.

        Q_L, Q_R: the eigenvectors of the running means of G G^T and G^T G
        updates = Q_L adam(Q_L^T G Q_R) Q_R^T

    Leaves of one axis get Adam's step. The first update is 0.

    Args:
        betas: (b1, b2), the decay rates of the running means of g and of the squares of rotated g.
        shampoo_beta: the decay rate of the matrices; b2 by default.
        eps: added to the root, so that nothing is divided by 0.
        precondition_frequency: updates from one basis to the next. Under torch.compile and vmap a
            basis is computed in each update, and those not due are discarded.
        max_precond_dim: axes longer than this are not rotated.

    Returns:
        A transform for `chain`; its state has the entries "exp_avg", "exp_avg_sq", "GG" and "Q".

    Raises:
        UserError: betas or shampoo_beta are not numbers in [0, 1), eps is negative or not finite,
            or precondition_frequency or max_precond_dim is not a positive integer; from `init`: a
            leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> transform = optim.scale_by_soap()
        >>> grads = {"w": np.array([[9.0, 1.0], [1.0, 2.0]])}
        >>> first, state = transform.update(grads, transform.init(grads), grads)
        >>> second, state = transform.update(grads, state, grads)
        >>> np.linalg.svd(first["w"])[1].round(3), np.linalg.svd(second["w"])[1].round(3)
        (array([0., 0.]), array([1., 1.]))

    Source:
        Vyas et al. 2024, arXiv 2409.11321, algorithm 3.
    """
    name, frequency = "scale_by_soap", precondition_frequency
    _expect_soap(name, betas, shampoo_beta, eps, frequency, max_precond_dim)

    def matrices(f, leaves):
        found = axis_matrices(f, leaves, max_precond_dim)
        return {name: found[name] if leaf.ndim > 1 else {} for name, leaf in leaves.items()}

    def init(params):
        zeros = tree.zeros_like(matrices(outer, params))
        means = {name: tree.zeros_like(params) for name in ("exp_avg", "exp_avg_sq")}
        counts = first_count(params, betas=betas, eps=eps)
        return {**counts, **means, "GG": zeros, "Q": zeros}

    def update(grads, state, params):
        third = betas[1] if shampoo_beta is None else shampoo_beta
        b1, b2, b3, e = [resolve_hyper(value, state, grads) for value in (*betas, third, eps)]
        m, v = _moments(grads, state, b1, b2)
        factor = _correction(b1, b2, state["count"], grads)
        steps = tree.map(lambda m, v: factor * m / (sqrt(v) + e), _rotated(state["Q"], m), v)
        updates = {name: along_axes(state["Q"][name], step) for name, step in steps.items()}
        outers = matrices(outer, grads)
        products = tree.map(lambda old, new: lerp(old, new, 1 - b3), state["GG"], outers)
        bases, v = _next_bases(products, state["Q"], v, state["count"], frequency)
        means = {"exp_avg": m, "exp_avg_sq": v}
        return updates, {"count": state["count"] + 1, **means, "GG": products, "Q": bases}

    scale = with_order(NORMALIZES, Optimizer(init, update))
    return any_dtype(scale, refusing(name, scale))


def _moments(grads: dict, state: dict, b1: Array, b2: Array) -> list:
    """Return the means of g and of the rotated g's squares; those of before at the first update."""
    first = state["count"] == 0

    def means(m, v, g, r):
        where = namespace(g).where
        squares = add_square(b2 * v, r, 1 - b2)
        return where(first, m, lerp(m, g, 1 - b1)), where(first, v, squares)

    rotated = _rotated(state["Q"], grads)
    return tree.map_to_several(means, 2, state["exp_avg"], state["exp_avg_sq"], grads, rotated)


def _correction(b1: Array, b2: Array, count: Array, grads: dict) -> Array:
    """Return Adam's correction of the bias, which is 0 at the first update."""
    t = at_least(count_to_dtype(count, grads), 1.0)
    factor = sqrt(bias_correction(b2, t)) / bias_correction(b1, t)
    return namespace(t).where(count == 0, namespace(t).zeros_like(t), factor)


def _rotated(bases: AxisMatrices, leaves: dict) -> dict:
    return {name: along_axes(bases[name], leaf, transpose=True) for name, leaf in leaves.items()}


def _next_bases(
    products: AxisMatrices, bases: AxisMatrices, squares: dict, count: Array, every: int
) -> tuple[AxisMatrices, dict]:
    """Return the bases after an update, and the second moments in their order.

    The first are eigenvectors, later ones one power iteration every few updates.
    """
    first, due = count == 0, (count > 0) & (count % every == 0)
    result = {"Q": bases, "v": squares}
    if _may_hold(due):
        result = choose(due, _iterated(products, bases, squares), result)
    if _may_hold(first):
        result["Q"] = choose(first, tree.map(eigenbasis, products), result["Q"])
    return tree.map(stop_gradient, result["Q"]), result["v"]


def _may_hold(condition: Array) -> bool:
    """Return False of a condition that is known not to hold: what depends on it is left out."""
    return not is_concrete(condition) or bool(condition)


def _iterated(products: AxisMatrices, bases: AxisMatrices, squares: dict) -> dict:
    """Return the bases "Q" after a power iteration each, and the squares "v" in the new order."""
    new_bases, new_squares = {}, {}
    for name, square in squares.items():
        new_bases[name] = {}
        for axis, product in products[name].items():
            basis = bases[name][axis]
            xp, image = namespace(basis), product @ basis
            order = xp.argsort((basis * image).sum(0), descending=True, stable=True)
            new_bases[name][axis] = xp.linalg.qr(image[:, order])[0]
            square = xp.take(square, order, axis=int(axis))
        new_squares[name] = square
    return {"Q": new_bases, "v": new_squares}


def eigenbasis(matrix: Array) -> Array:
    """Return the eigenvectors (n, n) of a symmetric matrix, in falling order of the eigenvalues.

    Where several eigenvalues are 0, as of a first gradient of low rank, any basis of their space is
    right, and rounding would choose one. Here it is the basis in which diag(1, ..., n) / n is
    diagonal there: the same one in every backend.
    """
    xp, n = namespace(matrix), matrix.shape[0]
    values, vectors = xp.linalg.eigh(matrix)
    values, vectors = xp.flip(values, axis=0), xp.flip(vectors, axis=1)
    is_null = values <= 10 * n**0.5 * xp.finfo(matrix.dtype).eps * values[:1]
    null = vectors * is_null
    rise = xp.arange(1, n + 1, dtype=matrix.dtype, device=matrix.device) / n
    inside = null @ (null.T @ (rise[:, None] * null)) @ null.T
    outside = vectors * ~is_null
    _, chosen = xp.linalg.eigh(inside - outside @ outside.T)  # ascending: those outside first
    return xp.where(is_null, chosen, vectors)
