"""Check a gradient against central differences along one random direction (as HIPS autograd)."""

import math
from collections.abc import Callable

from purenets.core import random, tree
from purenets.core.arguments import expect_dicts, expect_functions
from purenets.core.arrays import kind_of, namespace
from purenets.core.base import Array, Params, UserError
from purenets.core.optim.internals.arithmetic import dot
from purenets.core.optim.internals.elementwise import apply_updates
from purenets.core.optim.internals.precision import expect_like, expect_params

Scalar = Callable[[Params], Array]


def check_gradient(
    f: Scalar,
    params: Params,
    grads: Params,
    key,
    eps: float = 1e-5,
    tolerance=1e-7,
) -> float:
    """Return the relative error of a gradient, measured along one random direction.

    Along a direction d of norm 1, (f(p + eps d) - f(p - eps d)) / (2 eps) must be grads . d.

    Args:
        f: a scalar function of the params.
        params: where to check, real, float64; see `tree.cast(params, "float64")`.
        grads: the gradient of `f` there, as it should be, with the names and shapes of the params.
        key: the key of the direction.
        eps: the step to both sides.
        tolerance: the largest error allowed, as a part of the gradient's norm, or of 1 if that is
            larger.

    Returns:
        The difference between both, divided by the gradient's norm, or by 1 if that is larger.

    Raises:
        UserError: the error is over the tolerance (the message names the leaf that differs most);
            a leaf of the gradient has another name, shape, library or kind of number than its
            param; or `f` returns no scalar.

    Example:
        >>> import numpy as np
        >>> from purenets import random
        >>> from purenets.core.gradcheck import check_gradient
        >>> params = {"w": np.array([1.0, 2.0])}
        >>> def square(params):
        ...     return (params["w"] ** 2).sum()
        >>> check_gradient(square, params, {"w": 2 * params["w"]}, random.key(0)) < 1e-7
        True

    Source:
        autograd.test_util.check_grads of HIPS autograd.
    """
    expect_functions("check_gradient", f=f)
    expect_dicts("check_gradient", params=params, grads=grads)
    _expect_gradient(tree.flatten(params), tree.flatten(grads))
    direction = random_direction(params, key)
    numeric, exact = _slopes(f, params, grads, direction, eps)
    error = abs(numeric - exact) / max(1.0, float(tree.norm(grads)))
    if not error <= tolerance:
        raise UserError(
            f"gradient along a random direction: {exact}, by central differences {numeric}"
            + _largest_deviation(f, params, grads, direction, eps)
            + _coarse(params)
        )
    return error


def _expect_gradient(params: Params, grads: Params) -> None:
    """Raise a UserError for a leaf that would be broadcast or compared in another kind of
    number.
    """
    expect_params(params)
    expect_like("grads", grads, params)
    for what, leaves in (("params", params), ("grads", grads)):
        for name, leaf in leaves.items():
            if kind_of(leaf) != "f":
                dtype = str(leaf.dtype).removeprefix("torch.")
                raise UserError(f"{what}: {name} is {dtype}, needs real floating-point numbers")


def _slopes(f: Scalar, params: Params, grads: Params, direction: Params, eps: float):
    """Return the slope of `f` along a direction, by central differences and by the gradient."""
    ahead, behind = (
        _number(f(apply_updates(params, tree.map(lambda d, s=sign: s * eps * d, direction))))
        for sign in (1, -1)
    )
    return (ahead - behind) / (2 * eps), float(dot(grads, direction))


def _number(value: Array) -> float:
    """Return what `f` returned as a float; a UserError if it is no scalar."""
    shape = tuple(getattr(value, "shape", ()))
    if shape:
        raise UserError(f"f: returned an array of shape {shape}, needs a scalar, such as its sum")
    try:
        number = complex(value)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"f: returned a {type(value).__name__}, needs a real scalar") from None
    if number.imag:
        raise UserError(f"f: returned {number}, needs a real scalar")
    return number.real


def _largest_deviation(f: Scalar, params: Params, grads: Params, direction, eps: float) -> str:
    """Return the clause that names the leaf whose own slope differs most, where there are
    several.
    """
    flat = tree.flatten(direction)
    if len(flat) == 1:
        return ""
    slopes = {}
    for name in flat:
        alone = {other: d if other == name else 0 * d for other, d in flat.items()}
        slopes[name] = _slopes(f, params, grads, tree.unflatten(alone, params), eps)
    gaps = {name: abs(numeric - exact) for name, (numeric, exact) in slopes.items()}
    worst = max(gaps, key=lambda name: math.inf if math.isnan(gaps[name]) else gaps[name])
    numeric, exact = slopes[worst]
    return f"; it differs most in {worst}: {exact}, by central differences {numeric}"


def _coarse(params: Params) -> str:
    """Return the clause that blames the precision of the params, where it is lower than
    float64.
    """
    for name, leaf in tree.flatten(params).items():
        dtype = str(leaf.dtype).removeprefix("torch.")
        if dtype != "float64":
            return (
                f"; {name} is {dtype}, too coarse for central differences: check at "
                'tree.cast(params, "float64")'
            )
    return ""


def random_direction(params: Params, key) -> Params:
    """Return a dict like `params` in a random direction, of norm 1, in float64."""
    draws = {
        name: random.normal(random.fold_in(key, i), leaf.shape, "float64")
        for i, (name, leaf) in enumerate(tree.flatten(params).items())
    }
    norm = tree.norm(draws)
    leaves = {name: _beside(d / norm, params) for name, d in draws.items()}
    return tree.unflatten(leaves, params)


def _beside(draw: Array, params: Params) -> Array:
    """Return a draw in the library and on the device of the params, whatever those of the key."""
    leaf = tree.leaves(params)[0]
    return namespace(leaf).asarray(draw, device=leaf.device)
