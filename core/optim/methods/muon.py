"""Muon: momentum whose matrices are orthogonalized (Jordan et al. 2024,
kellerjordan.github.io/posts/muon).

A step is as long in every direction of a matrix: its singular values become about 1, by five
Newton-Schulz iterations, which are products of matrices only. Numbers, names and defaults are those
of torch.optim.Muon, which computes in bfloat16 (`precision="bfloat16"`) and takes matrices only;
here a convolution's weights are the matrix (out, in * height * width), and all other leaves go to a
second optimizer.
"""

import math
from collections.abc import Callable

from purenets.core import tree
from purenets.core.arguments import (
    DECAY,
    FINITE,
    NOT_NEGATIVE,
    expect_call,
    expect_choice,
    expect_flags,
    expect_hypers,
    expect_integers,
    expect_numbers,
    expect_optimizers,
    expect_several,
)
from purenets.core.arrays import dtype_called, namespace, sqrt
from purenets.core.base import Array, Optimizer, Params, UserError
from purenets.core.optim.internals.arithmetic import running_mean
from purenets.core.optim.internals.hyper import (
    Hyper,
    has_schedule,
    init_count,
    next_count,
    resolve_hyper,
    unless_zero,
)
from purenets.core.optim.internals.order import (
    KEEPS,
    NORMALIZES,
    with_order,
)
from purenets.core.optim.internals.patterns import (
    checking_patterns,
    picks,
)
from purenets.core.optim.internals.precision import any_dtype, real_only, refusing
from purenets.core.optim.methods.newton_schulz import METHODS
from purenets.core.optim.transforms import (
    add_decayed_weights,
    chain,
    scale_by_adam,
    scale_by_learning_rate,
    stateless,
)
from purenets.core.optim.wrappers import is_matrix, partition

# Of the quintic polynomial: steepest at 0, and singular values end in [0.7, 1.2]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)

# how long the step of a matrix of (rows, columns) is, against that of a square one
ADJUSTMENTS: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_unclamped": lambda rows, columns: math.sqrt(rows / columns),
}


def muon(
    lr: Hyper = 1e-3,
    weight_decay: Hyper = 0.1,
    momentum: Hyper = 0.95,
    nesterov: bool = True,
    *,
    other: Optimizer | None = None,
    matrices: Callable[[str, Array], bool] = is_matrix,
    adjust_lr_fn: str = "original",
    ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
    ns_steps: int = 5,
    eps: float = 1e-7,
    precision: str | None = None,
    method: str = "direct",
) -> Optimizer:
    """Return Muon for matrices, and a second optimizer for all other leaves.

    A step of Muon is the momentum with all its singular values set to about 1: it is equally long
    in every direction of the matrix. First and last layers often do better with `other`:
    `matrices=not_named("fc1.*", "fc3.*")`.

    Args:
        lr: the learning rate, a number or a schedule.
        weight_decay: decoupled weight decay; each step also subtracts lr * weight_decay * p.
        momentum: the decay rate of the running mean of g, in [0, 1).
        nesterov: use Nesterov's momentum, one step ahead of the running mean.
        other: the optimizer of the rest; by default AdamW of the same lr and weight_decay.
        matrices: `matrices(name, leaf) -> bool`, the leaves for Muon; those of one axis never are.
        adjust_lr_fn: how a step depends on the shape of the matrix: "original" for
            sqrt(max(1, rows / columns)), "match_rms_adamw" for 0.2 * sqrt(max(rows, columns)), or
            "spectral_unclamped" for sqrt(rows / columns).
        ns_coefficients: (a, b, c) of the quintic polynomial of the Newton-Schulz iteration.
        ns_steps: iterations of it.
        eps: the smallest norm that a matrix is divided by.
        precision: the dtype that the iteration computes in, such as "bfloat16"; None for that of
            the leaf.
        method: "direct", or "gram" for the same result, up to rounding, with fewer multiplications.

    Returns:
        An optimizer for real params; its state is that of `partition` with the labels "muon" and
        "other". The first has the entry "momentum_buffer".

    Raises:
        UserError: lr, weight_decay or eps is negative or not finite, momentum is not in [0, 1),
            ns_coefficients is not three numbers, ns_steps is not a positive integer, a name is
            unknown, other is not an Optimizer, or matrices is not a function; from `init`: a leaf
            is complex, or a pattern of `named` or `not_named` matches no leaf.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer = optim.muon(lr=0.1, weight_decay=0)
        >>> params = {"fc.weight": np.array([[9.0, 1.0], [1.0, 2.0]]), "fc.bias": np.ones(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> values = np.linalg.svd(updates["fc.weight"])[1]
        >>> bool(((values > 0.06) & (values < 0.13)).all())  # all singular values are about lr
        True
        >>> list(state)
        ['muon', 'other']

    Source:
        torch.optim.Muon; Jordan et al. 2024, kellerjordan.github.io/posts/muon.
    """
    expect_hypers("muon", NOT_NEGATIVE, lr=lr, weight_decay=weight_decay)
    expect_hypers("muon", DECAY, momentum=momentum)
    expect_flags("muon", nesterov=nesterov)
    _expect_precision("muon", precision)
    _expect_iteration("muon", ns_coefficients, ns_steps, eps)
    expect_call("muon", ("name", "leaf"), matrices=matrices)
    expect_choice("muon", ADJUSTMENTS, adjust_lr_fn=adjust_lr_fn)
    expect_choice("muon", METHODS, method=method)
    decay = unless_zero(weight_decay, add_decayed_weights)
    of_matrices = chain(
        scale_by_muon(momentum, nesterov, ns_coefficients, ns_steps, eps, precision, method),
        scale_by_shape(adjust_lr_fn),
        *decay,
        scale_by_learning_rate(lr),
    )
    if other is None:
        other = chain(scale_by_adam(), *decay, scale_by_learning_rate(lr))
    expect_optimizers("muon", other=other)

    def label(name: str, leaf: Array) -> str:
        is_matrix = leaf.ndim > 1 and math.prod(leaf.shape) > 0
        is_muon = is_matrix and picks("muon", matrices, name, leaf, "matrices")
        return "muon" if is_muon else "other"

    split = partition({"muon": of_matrices, "other": other}, label)
    return real_only("muon", checking_patterns("muon", matrices, split))


def _expect_precision(function: str, precision: str | None) -> None:
    if precision is not None and not isinstance(precision, str):
        raise UserError(f"{function}: precision is {precision!r}, needs a dtype's name or None")


def _expect_iteration(function: str, coefficients, steps: int, eps: float) -> None:
    """Raise a UserError for what is no Newton-Schulz iteration."""
    right = "three numbers", COEFFICIENTS
    expect_several(function, right, ns_coefficients=coefficients)
    for coefficient in coefficients:
        expect_numbers(function, FINITE, ns_coefficients=coefficient)
    expect_integers(function, 1, ns_steps=steps)
    expect_numbers(function, NOT_NEGATIVE, eps=eps)


def scale_by_muon(
    momentum: Hyper = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
    ns_steps: int = 5,
    eps: float = 1e-7,
    precision: str | None = None,
    method: str = "direct",
) -> Optimizer:
    """Return a transform that orthogonalizes the running mean of the gradient of each matrix.

    For the mean U S V^T the update is about U V^T, by the Newton-Schulz iteration. A leaf of more
    than two axes is the matrix of its first axis and all others; every leaf needs at least two.

    Args:
        momentum: the decay rate of the running mean, in [0, 1).
        nesterov: orthogonalize momentum * mean + (1 - momentum) * g, one step ahead of the mean.
        ns_coefficients: (a, b, c) of the quintic polynomial of the iteration.
        ns_steps: iterations.
        eps: the smallest norm that a matrix is divided by.
        precision: the dtype that the iteration computes in, such as "bfloat16"; None for that of
            the leaf.
        method: "direct", or "gram" for the same result, up to rounding, with fewer multiplications.

    Returns:
        A transform for `chain`; its state has the entry "momentum_buffer", shaped as the params.

    Raises:
        UserError: momentum is not in [0, 1), ns_coefficients is not three numbers, ns_steps is not
            a positive integer, eps is negative or not finite, nesterov is not a bool, or method is
            unknown; from `init`: a leaf is complex.

    Example:
        Singular values 9.1 and 1.9 of the gradient both come close to 1.

        >>> import numpy as np
        >>> from purenets import optim
        >>> transform, grads = optim.scale_by_muon(), {"w": np.array([[9.0, 1.0], [1.0, 2.0]])}
        >>> updates, _ = transform.update(grads, transform.init(grads), grads)
        >>> values = np.linalg.svd(updates["w"])[1]
        >>> bool(((values > 0.6) & (values < 1.3)).all())
        True

    Source:
        torch.optim.Muon; Jordan et al. 2024, kellerjordan.github.io/posts/muon.
    """
    expect_hypers("scale_by_muon", DECAY, momentum=momentum)
    counts = has_schedule(momentum)
    expect_flags("scale_by_muon", nesterov=nesterov)
    _expect_iteration("scale_by_muon", ns_coefficients, ns_steps, eps)
    _expect_precision("scale_by_muon", precision)
    expect_choice("scale_by_muon", METHODS, method=method)

    def init(params):
        return {
            **init_count(params, momentum=momentum),
            "momentum_buffer": tree.zeros_like(params),
        }

    def update(grads, state, params):
        mu = resolve_hyper(momentum, state, grads)
        mean = running_mean(mu, state["momentum_buffer"], grads)
        direction = running_mean(mu, mean, grads) if nesterov else mean
        updates = tree.map(
            lambda d: newton_schulz(d, ns_coefficients, ns_steps, eps, precision, method), direction
        )
        return updates, {**next_count(state, counts), "momentum_buffer": mean}

    optimizer = with_order(NORMALIZES, Optimizer(init, update))
    return any_dtype(optimizer, refusing("scale_by_muon", optimizer))


def scale_by_shape(adjust_lr_fn: str = "original") -> Optimizer:
    """Return a transform that multiplies each matrix by the factor in ADJUSTMENTS for its shape."""
    expect_choice("scale_by_shape", ADJUSTMENTS, adjust_lr_fn=adjust_lr_fn)

    def scale(grads: Params, params: Params) -> Params:
        factor = ADJUSTMENTS[adjust_lr_fn]
        return tree.map(lambda g: g * factor(g.shape[0], math.prod(g.shape[1:])), grads)

    return with_order(KEEPS, stateless(scale))


def _normalized(x: Array, eps: float) -> Array:
    """Return a matrix of Frobenius norm 1."""
    return x / namespace(x).clip(sqrt((x * x).sum()), eps, None)


def newton_schulz(
    g: Array,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    steps: int = 5,
    eps: float = 1e-7,
    precision: str | None = None,
    method: str = "direct",
) -> Array:
    """Return about U V^T of g = U S V^T, by x <- a x + (b x x^T + c (x x^T)^2) x.

    The matrix is divided by its norm first, so that no singular value is over 1. The division
    comes before the cast to `precision`, which might overflow; only for bfloat16, as in torch, it
    comes after.

    Args:
        g: an array (rows, ...), taken as the matrix (rows, all others).
        coefficients: (a, b, c), numbers or an array.
        steps: iterations.
        eps: the smallest norm to divide by.
        precision: the dtype of the iteration, None for that of g.
        method: a name in `newton_schulz.METHODS`.

    Returns:
        An array of the shape and dtype of g.
    """
    if not math.prod(g.shape):
        return g
    xp = namespace(g)
    x = g.reshape(g.shape[0], -1)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x if precision == "bfloat16" else _normalized(x, eps)
    x = x if precision is None else xp.astype(x, dtype_called(precision, x, "muon"))
    x = _normalized(x, eps) if precision == "bfloat16" else x
    if hasattr(coefficients, "dtype"):  # of `inject_hyperparams`
        coefficients = xp.astype(coefficients, x.dtype)
    x = METHODS[method](x, coefficients, steps)
    return xp.astype((x if wide else x.T).reshape(g.shape), g.dtype)
