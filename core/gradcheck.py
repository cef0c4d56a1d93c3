"""Check a gradient against central differences along one random direction (as HIPS autograd)."""

from collections.abc import Callable

from purenets.core import random, tree
from purenets.core.base import Array, Params, UserError
from purenets.core.optim.internals.elementwise import apply_updates


def check_gradient(
    f: Callable[[Params], Array],
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
        params: where to check, float64.
        grads: the gradient of `f` there, as it should be.
        key: the key of the direction.
        eps: the step to both sides.
        tolerance: the largest error allowed, as a part of the gradient's norm, or of 1 if that is
            larger.

    Returns:
        The difference between both, divided by the gradient's norm, or by 1 if that is larger.

    Raises:
        UserError: the error is over the tolerance, or the names of the leaves differ.

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
    tree.check_names(grads, params)
    direction = random_direction(params, key)
    ahead, behind = (
        f(apply_updates(params, tree.map(lambda d, s=sign: s * eps * d, direction)))
        for sign in (1, -1)
    )
    numeric = float(ahead - behind) / (2 * eps)
    exact = float(
        sum((g * d).sum() for g, d in zip(tree.leaves(grads), tree.leaves(direction), strict=True))
    )
    error = abs(numeric - exact) / max(1.0, float(tree.norm(grads)))
    if not error <= tolerance:
        raise UserError(
            f"gradient along a random direction: {exact}, by central differences {numeric}"
        )
    return error


def random_direction(params: Params, key) -> Params:
    """Return a dict like `params` in a random direction, of norm 1, in float64."""
    draws = {
        name: random.normal(random.fold_in(key, i), leaf.shape, "float64")
        for i, (name, leaf) in enumerate(tree.flatten(params).items())
    }
    norm = tree.norm(draws)
    return tree.unflatten({name: d / norm for name, d in draws.items()}, params)
